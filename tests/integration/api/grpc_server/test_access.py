"""Keys, roles and rates of calls; health and reflection; methods that are not served."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from api.grpc_server.generated import open_inference_pb2 as pb
from tests.support.api_keys import callers, jitney_keys
from tests.support.gateways import Worker
from tests.support.grpc_calls import GrpcGateway, double, error_of, request, trailer, values
from tests.support.servers import Server
from tests.support.waiting import wait_until_async

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def gateway(queue: Server) -> Iterator[GrpcGateway]:
    limits = {"JITNEY_TENANTS": '{"hasty": {"requests": 3}}', "JITNEY_TENANT_WINDOW_S": "600"}
    with GrpcGateway(queue, limits) as process:
        yield process


@pytest.fixture
def keys(queue: Server, gateway: GrpcGateway, stub: Any) -> dict[str, str]:
    """The keys of two tenants; that of `admin` has this role."""
    del stub  # it has emptied the queue
    return authorizations(queue, gateway, "alice", "admin")


def authorizations(queue: Server, gateway: GrpcGateway, *tenants: str) -> dict[str, str]:
    made = callers(queue, gateway, *tenants)
    return {name: caller.headers["authorization"] for name, caller in zip(tenants, made, strict=True)}


async def test_keys_and_roles(stub: Any, worker: Worker, keys: dict[str, str]) -> None:
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
    for call in (
        stub.ModelInfer(request()),
        stub.ModelInfer(request(), metadata=(("authorization", "Bearer jk_unknown"),)),
        stub.ServerMetadata(pb.ServerMetadataRequest()),
        stub.ModelReady(pb.ModelReadyRequest(name="m")),
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m")),
    ):
        error = await error_of(call)
        assert (error.code(), trailer(error, "jitney-code")) == (StatusCode.UNAUTHENTICATED, "unauthorized")
    alice = (("authorization", keys["alice"]),)
    bare = (("x-api-key", keys["alice"].removeprefix("Bearer ")),)
    for metadata in (alice, bare):
        answer, _ = await asyncio.gather(stub.ModelInfer(request(), metadata=metadata), double(worker))
        assert values(answer) == [[0.0, 2.0, 4.0, 6.0]]
    jobs, _ = await worker.store.newest("alice", 1 << 60, 10)
    assert len(jobs) == 2
    unload = pb.RepositoryModelUnloadRequest(model_name="m")
    error = await error_of(stub.RepositoryModelUnload(unload, metadata=alice))
    assert (error.code(), trailer(error, "jitney-code")) == (StatusCode.PERMISSION_DENIED, "forbidden")
    admin = (("authorization", keys["admin"]),)
    error = await error_of(
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="nothing"), metadata=admin)
    )
    assert error.code() == StatusCode.NOT_FOUND


async def test_a_revoked_key_in_an_open_stream(stub: Any, queue: Server, keys: dict[str, str]) -> None:
    stream = stub.ModelStreamInfer(metadata=(("authorization", keys["alice"]),))

    async def code() -> str:
        await stream.write(request(model="nothing"))
        found: str = (await stream.read()).infer_response.parameters["jitney-code"].string_param
        return found

    assert await code() == "model_not_found"
    assert jitney_keys(queue.url, "revoke", keys["alice"].split("_")[1]).returncode == 0

    async def is_refused() -> bool:
        return await code() == "unauthorized"

    await wait_until_async(is_refused, "the gateway has heard of it")


async def test_the_rate_of_a_tenant(stub: Any, queue: Server, gateway: GrpcGateway) -> None:
    hasty = (("authorization", authorizations(queue, gateway, "hasty")["hasty"]),)
    # One request of the three has asked over HTTP whether the key is known.
    call = stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=hasty)
    assert (await call).name == "jitney"
    assert dict(await call.trailing_metadata())["ratelimit-policy"] == '"requests";q=3;w=600'
    calls = [stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=hasty) for _ in range(3)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    error: Any = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)][-1]
    assert (error.code(), trailer(error, "jitney-code")) == (StatusCode.RESOURCE_EXHAUSTED, "rate_limited")
    assert int(trailer(error, "retry-after")) > 1
    assert trailer(error, "ratelimit").startswith('"requests";r=0;')


async def test_health_and_reflection(stub: Any, keys: dict[str, str]) -> None:
    health = health_pb2_grpc.HealthStub(stub.channel)
    for service in ("", SERVICE, "m"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    error = await error_of(health.Check(health_pb2.HealthCheckRequest(service="other")))
    assert error.code() == StatusCode.NOT_FOUND
    alice = (("authorization", keys["alice"]),)
    watch = health.Watch(health_pb2.HealthCheckRequest(), metadata=alice)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    reflection = reflection_pb2_grpc.ServerReflectionStub(stub.channel)
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    # Read without a write: a client that still writes when the call ends may report its own failed write instead.
    error = await error_of(reflection.ServerReflectionInfo().read())
    assert error.code() == StatusCode.UNAUTHENTICATED
    listed, described = [answer async for answer in reflection.ServerReflectionInfo(iter(questions), metadata=alice)]
    assert SERVICE in [service.name for service in listed.list_services_response.service]
    assert b"ModelInferRequest" in described.file_descriptor_response.file_descriptor_proto[0]


async def test_a_method_that_is_not_served(stub: Any) -> None:
    for name in ("SystemSharedMemoryStatus", "CudaSharedMemoryRegister", "TraceSetting", "LogSettings", "Other"):
        error = await error_of(stub.channel.unary_unary(f"/{SERVICE}/{name}")(b""))
        assert error.code() == StatusCode.UNIMPLEMENTED
