"""Serves the unary methods of `inference.GRPCInferenceService`, with the functions of `api.open_inference`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from api.asgi.tenant_budgets import BudgetShare
from api.auth.authentication import Caller
from api.gateway.gateway import Gateway
from api.grpc_server import messages
from api.grpc_server.calls import Access, Call, Calls
from api.grpc_server.generated import open_inference_pb2 as pb
from api.open_inference import metadata, repository
from api.open_inference.inference import InferRequest, InferResponse, PendingInference, longest_wait_ms, to_job
from api.open_inference.model_tensors import model_tensors_of
from api.submission.submit import admit_single
from jobs.contract.errors import Refused

_Method = Callable[[Gateway, Any, Caller], Awaitable[Message]]

SERVICE: Final = "inference.GRPCInferenceService"
PATH: Final = f"/{SERVICE}/"


def handlers(calls: Calls) -> dict[str, Any]:
    """Return gRPC's handlers of the unary methods, by path."""

    def of_method(kind: type[Any], method: _Method) -> Any:
        async def answer(call: Call) -> bytes:
            request = messages.parse(kind, await call.receive_small())
            encoded: bytes = (await method(calls.gateway, request, call.caller)).SerializeToString()
            return encoded

        return answer

    found = {f"{PATH}ModelInfer": calls.unary(f"{PATH}ModelInfer", Access.KEY, lambda call: model_infer(calls, call))}
    for name, (access, kind, method) in _METHODS.items():
        found[PATH + name] = calls.unary(PATH + name, access, of_method(kind, method))
    return found


async def model_infer(calls: Calls, call: Call) -> bytes:
    """Run a model on the request of a call, once, and return the message of its answer. Raises JitneyError."""
    key = call.header("idempotency-key")
    with calls.gateway.reserve_body(call.request, key) as share:
        request = messages.read_infer_request(await call.receive(share), share)
        return messages.build_infer_response(await run(calls.gateway, call, request, share, key))


async def run(gateway: Gateway, call: Call, request: InferRequest, share: BudgetShare, key: str) -> InferResponse:
    """Run a request within the deadline of its call. Raises JitneyError.

    The job is canceled with the call, unless it has an idempotency key.
    """
    await call.join_submits()
    deadline_us = call.deadline_us()
    if deadline_us is not None:
        request = request._replace(parameters=_cut_timeout(request.parameters, deadline_us))
    card, wait_s = gateway.catalog.find(request.model, request.version), call.wait_limit_s()
    model_tensors = model_tensors_of(card)
    job_request = to_job(model_tensors, request, longest_wait_ms(gateway, card, key, wait_s))
    job = admit_single(gateway, call.tenant, job_request, key)
    pending = PendingInference(gateway, job, model_tensors, request, share, wait_s=wait_s)
    del request, job_request, job  # the tensors
    try:
        return await pending.response(call.request.evict)
    except asyncio.CancelledError:
        if gateway.settings.disconnect_cancels:
            await pending.cancel()
        raise


def _cut_timeout(parameters: Mapping[str, Any], deadline_us: int) -> Mapping[str, Any]:
    """Return parameters whose `timeout`, in µs, is at most the time until the deadline."""
    timeout_us = parameters.get("timeout", 0)
    if timeout_us and (type(timeout_us) is not int or 0 < timeout_us <= deadline_us):
        return parameters
    return {**parameters, "timeout": deadline_us}


async def _server_live(_gateway: Gateway, _request: pb.ServerLiveRequest, _caller: Caller) -> Message:
    return pb.ServerLiveResponse(live=True)


async def _server_ready(gateway: Gateway, _request: pb.ServerReadyRequest, _caller: Caller) -> Message:
    return pb.ServerReadyResponse(ready=await metadata.is_server_ready(gateway))


async def _model_ready(gateway: Gateway, request: pb.ModelReadyRequest, _caller: Caller) -> Message:
    await gateway.refresh_models()
    try:
        ready = metadata.is_model_ready(gateway, request.name, request.version)
    except Refused:  # there is no such model or version
        ready = False
    return pb.ModelReadyResponse(ready=ready)


async def _server_metadata(_gateway: Gateway, _request: pb.ServerMetadataRequest, _caller: Caller) -> Message:
    return messages.fill(pb.ServerMetadataResponse(), metadata.server_metadata())


async def _model_metadata(gateway: Gateway, request: pb.ModelMetadataRequest, _caller: Caller) -> Message:
    return messages.fill(pb.ModelMetadataResponse(), metadata.model_metadata(gateway, request.name, request.version))


async def _model_config(gateway: Gateway, request: pb.ModelConfigRequest, _caller: Caller) -> Message:
    config = metadata.model_config(gateway, request.name, request.version)
    return messages.fill(pb.ModelConfigResponse(), {"config": config})


async def _model_statistics(gateway: Gateway, request: pb.ModelStatisticsRequest, _caller: Caller) -> Message:
    await gateway.refresh_models()
    found = await metadata.model_statistics(gateway, request.name, request.version)
    return messages.fill(pb.ModelStatisticsResponse(), found)


async def _repository_index(gateway: Gateway, request: pb.RepositoryIndexRequest, _caller: Caller) -> Message:
    await gateway.refresh_models()
    models = metadata.repository_index(gateway, only_ready=request.ready)
    return messages.fill(pb.RepositoryIndexResponse(), {"models": models})


async def _load_model(gateway: Gateway, request: pb.RepositoryModelLoadRequest, caller: Caller) -> Message:
    await repository.load_model(gateway, request.model_name, request.parameters, caller)
    return pb.RepositoryModelLoadResponse()


async def _unload_model(gateway: Gateway, request: pb.RepositoryModelUnloadRequest, caller: Caller) -> Message:
    await repository.unload_model(gateway, request.model_name, caller)
    return pb.RepositoryModelUnloadResponse()


# name → (who may call it, its request, how it is answered)
_METHODS: Final[Mapping[str, tuple[Access, type[Any], _Method]]] = {
    "ServerLive": (Access.PUBLIC, pb.ServerLiveRequest, _server_live),
    "ServerReady": (Access.PUBLIC, pb.ServerReadyRequest, _server_ready),
    "ModelReady": (Access.KEY, pb.ModelReadyRequest, _model_ready),
    "ServerMetadata": (Access.KEY, pb.ServerMetadataRequest, _server_metadata),
    "ModelMetadata": (Access.KEY, pb.ModelMetadataRequest, _model_metadata),
    "ModelConfig": (Access.KEY, pb.ModelConfigRequest, _model_config),
    "ModelStatistics": (Access.KEY, pb.ModelStatisticsRequest, _model_statistics),
    "RepositoryIndex": (Access.KEY, pb.RepositoryIndexRequest, _repository_index),
    "RepositoryModelLoad": (Access.ADMIN, pb.RepositoryModelLoadRequest, _load_model),
    "RepositoryModelUnload": (Access.ADMIN, pb.RepositoryModelUnloadRequest, _unload_model),
}
