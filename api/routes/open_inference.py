"""Routes of the Open Inference Protocol v2 beside `infer`: health, metadata, statistics, repository, jobs."""

from typing import Any, Final

import orjson
from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import json_response, receive_body, to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import HttpResponse, Receive, submit_response
from api.gateway.gateway import Gateway
from api.open_inference import http_messages, metadata, repository
from api.routes.infer import MODELS, PREFIX
from api.submission.single_submit import SingleSubmit
from api.submission.submit import admit_single
from jobs.contract.errors import Refused
from jobs.contract.job_view import job_view
from jobs.contract.json_reader import read_object

MAX_BYTES: Final = 4096  # of a body of the repository's routes
_MODEL: Final = f"{MODELS}{{name}}"
_VERSION: Final = f"{_MODEL}/versions/{{version}}"
_REPOSITORY: Final = f"{PREFIX}/repository"


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(tags=["open inference"])

    @routes.get(PREFIX, summary="Read name, version and extensions of the server")
    async def read_server_metadata() -> Response:
        """Return what the server is. The extension `async_jobs` is the route `jobs` of a model."""
        return json_response(metadata.server_metadata())

    @routes.get(f"{PREFIX}/health/live", summary="Check that the server runs")
    async def check_server_live() -> Response:
        """Answer at once. It needs no API key."""
        return json_response({"live": True})

    @routes.get(f"{PREFIX}/health/ready", summary="Check that the server accepts requests")
    async def check_server_ready() -> Response:
        """Return 200 if the gateway accepts jobs and Redis answers, else 503. It needs no API key."""
        is_ready = await metadata.is_server_ready(gateway)
        return json_response({"ready": is_ready}, 200 if is_ready else 503)

    @routes.get(f"{MODELS}stats", summary="Read the statistics of all models")
    async def read_all_statistics() -> Response:
        """Return the counts and times of the jobs of each model and version."""
        await gateway.refresh_models()
        return json_response(await metadata.model_statistics(gateway))

    @routes.post(f"{_REPOSITORY}/index", summary="List all models and versions with their state")
    async def list_repository(http: HttpRequest) -> Response:
        """Return each version as READY, LOADING or UNAVAILABLE, with the reason."""
        fields = await _read_body(gateway, http)
        only_ready = fields.get("ready", False)
        if not isinstance(only_ready, bool):
            raise Refused("invalid_request", 'field "ready" must be true or false')
        await gateway.refresh_models()
        index = metadata.repository_index(gateway, only_ready=only_ready)
        return to_fastapi_response(HttpResponse(200, orjson.dumps(index)))

    @routes.post(f"{_REPOSITORY}/models/{{name}}/load", summary="Load a model, or load it again")
    async def load_repository_model(http: HttpRequest, name: str) -> Response:
        """Load the model from the models folder, and answer once it is ready. It needs a key with the role admin."""
        fields = await _read_body(gateway, http)
        await repository.load_model(gateway, name, _parameters(fields), http.scope["caller"])
        return json_response({})

    @routes.post(f"{_REPOSITORY}/models/{{name}}/unload", summary="Unload a model")
    async def unload_repository_model(http: HttpRequest, name: str) -> Response:
        """Unload all versions of the model once their queues are empty, and answer then. It needs the role admin.

        If that takes longer than a request may wait, the answer comes before.
        """
        await _read_body(gateway, http)
        await repository.unload_model(gateway, name, http.scope["caller"])
        return json_response({})

    _add_model_routes(routes, gateway)
    _add_job_routes(routes, gateway)
    return routes


def _add_model_routes(routes: APIRouter, gateway: Gateway) -> None:
    """Add the routes of a model, each also with a version."""

    @routes.get(_MODEL, summary="Read versions, inputs and outputs of a model")
    async def read_model_metadata(name: str) -> Response:
        """Return the tensors of the model. -1 is any size; a first dimension of -1 is that of the rows."""
        return json_response(metadata.model_metadata(gateway, name))

    @routes.get(_VERSION, summary="Read inputs and outputs of a version")
    async def read_version_metadata(name: str, version: str) -> Response:
        """Return the tensors of the version."""
        return json_response(metadata.model_metadata(gateway, name, version))

    @routes.get(f"{_MODEL}/ready", summary="Check that a live worker serves the model")
    async def check_model_ready(name: str) -> Response:
        """Return 200 if a live worker takes new requests of the model, else 503."""
        return await _ready(gateway, name)

    @routes.get(f"{_VERSION}/ready", summary="Check that a live worker serves the version")
    async def check_version_ready(name: str, version: str) -> Response:
        """Return 200 if a live worker runs the version, else 503."""
        return await _ready(gateway, name, version)

    @routes.get(f"{_MODEL}/config", summary="Read the model's configuration as Triton has it")
    async def read_model_config(name: str) -> Response:
        """Return Triton's ModelConfig: `max_batch_size` and the tensors without the dimension of rows."""
        return json_response(metadata.model_config(gateway, name))

    @routes.get(f"{_VERSION}/config", summary="Read the configuration of a version as Triton has it")
    async def read_version_config(name: str, version: str) -> Response:
        """Return Triton's ModelConfig of the version."""
        return json_response(metadata.model_config(gateway, name, version))

    @routes.get(f"{_MODEL}/stats", summary="Read the statistics of a model")
    async def read_model_statistics(name: str) -> Response:
        """Return the counts and times of the jobs of each version."""
        await gateway.refresh_models()
        return json_response(await metadata.model_statistics(gateway, name))

    @routes.get(f"{_VERSION}/stats", summary="Read the statistics of a version")
    async def read_version_statistics(name: str, version: str) -> Response:
        """Return the counts and times of the version's jobs."""
        await gateway.refresh_models()
        return json_response(await metadata.model_statistics(gateway, name, version))


def _add_job_routes(routes: APIRouter, gateway: Gateway) -> None:
    """Add the asynchronous form of `infer`."""

    @routes.post(f"{_MODEL}/jobs", summary="Submit an inference as a job")
    async def submit_inference(http: HttpRequest, name: str) -> Response:
        """Take the body of `infer` and answer 202 with a job, which is read at /v1/jobs.

        Its output has all tensors of the model, as base64.
        """
        return to_fastapi_response(await _submit_job(gateway, Request(http.scope), http.receive, name, ""))

    @routes.post(f"{_VERSION}/jobs", summary="Submit an inference by a version as a job")
    async def submit_version_inference(http: HttpRequest, name: str, version: str) -> Response:
        """Take the body of `infer` and answer 202 with a job that this version runs."""
        return to_fastapi_response(await _submit_job(gateway, Request(http.scope), http.receive, name, version))


async def _ready(gateway: Gateway, name: str, version: str = "") -> Response:
    await gateway.refresh_models()
    is_ready = metadata.is_model_ready(gateway, name, version)
    return json_response({"name": name, "ready": is_ready}, 200 if is_ready else 503)


async def _read_body(gateway: Gateway, http: HttpRequest) -> dict[str, Any]:
    text = await receive_body(http, gateway.bodies, MAX_BYTES)
    return read_object(text, "the body") if text else {}


def _parameters(fields: dict[str, Any]) -> dict[str, Any]:
    parameters = fields.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise Refused("invalid_request", 'field "parameters" must be an object')
    return parameters


async def _submit_job(gateway: Gateway, http: Request, receive: Receive, name: str, version: str) -> HttpResponse:
    """Submit the job of an inference and return the answer to a submit. Raises JitneyError."""
    settings, key = gateway.settings, http.header(b"idempotency-key")
    share = gateway.reserve_body(http, key)
    try:
        body = await http.body(receive, share, settings.max_body_bytes)
        http.query()
        read, raw = http_messages.read_request(http, body, gateway.catalog.find(name, version), version)
        submission = admit_single(gateway, http.tenant, read.job_request, key, raw)
        submit = SingleSubmit(gateway, submission, wait_s=0, share=share)
        del body, read, raw, submission  # the inputs
    except BaseException:
        share.release()
        raise
    job = await submit.outcome()
    headers = [(b"location", f"/v1/jobs/{job.id}".encode())]
    if submit.is_replayed:
        headers.append((b"idempotent-replayed", b"true"))
    return submit_response(orjson.dumps(job_view(job)), headers, is_final=False)
