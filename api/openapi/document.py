"""Completes FastAPI's OpenAPI document: schemas, responses, and the routes that do not go through FastAPI."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.auth.access_control import PUBLIC_PATHS, PUBLIC_PREFIX
from api.openapi.schemas import BINARY, OBJECT, SCHEMAS, TEXT, object_of, ref
from api.submission import parsing

# The responses of each route by status, as the name of a schema or, after "any: ", the description of any JSON object.
# Every route may also return a problem.
_RESPONSES: Final[dict[str, dict[str, dict[int, str]]]] = {
    "/v1/jobs": {"get": {200: "JobList"}},
    "/v1/jobs/{job_id}": {"get": {200: "Job"}, "delete": {200: "Job"}},
    "/v1/jobs/{job_id}/webhook": {"put": {202: "Delivery", 200: "any: the result of the call"}},
    "/v1/deadletters": {"get": {200: "DeadLetterList"}, "delete": {200: "any: the number purged"}},
    "/v1/deadletters/replay": {"post": {200: "any: counts by result"}},
    "/v1/deadletters/{job_id}": {"get": {200: "DeadLetter"}, "delete": {200: "any: the number purged"}},
    "/v1/deadletters/{job_id}/replay": {"post": {202: "Job"}},
    "/v1/rerank": {"post": {200: "Rerank"}},
    "/v1/webhooks": {"get": {200: "DeliveryList"}},
    "/v1/webhooks/replay": {"post": {200: "any: the result of the call"}},
    "/v1/webhooks/endpoints": {"get": {200: "EndpointList"}},
    "/v1/webhooks/secret": {"get": {200: "WebhookSecret"}},
    "/v1/webhooks/secret/rotate": {"post": {200: "WebhookSecret"}},
    "/v1/webhooks/{delivery_id}": {"get": {200: "Delivery"}},
    "/v1/webhooks/{delivery_id}/replay": {"post": {202: "Delivery", 200: "any: the result of the call"}},
}
_DEDUPLICATES: Final = "deduplicates retries"
# The response 200 of each route whose errors have OpenAI's format.
_OPENAI_RESPONSES: Final = {
    "/v1/files": {"post": "File", "get": "FileList"},
    "/v1/files/{file_id}": {"get": "File", "delete": "any: confirmation of the deletion"},
    "/v1/batches": {"post": "Batch", "get": "BatchList"},
    "/v1/batches/{batch_id}": {"get": "Batch"},
    "/v1/batches/{batch_id}/cancel": {"post": "Batch"},
    "/v1/embeddings": {"post": "Embeddings"},
}


def build_document(app: FastAPI) -> dict[str, Any]:
    """Build the document on the first call, and return it."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(SCHEMAS)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"key": []}]
    paths = schema["paths"]
    for path in [path for path in paths if path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIX)]:
        paths[path]["get"]["security"] = []
    paths.setdefault("/v1/jobs/{job_id}", {})["get"] = _read()
    for path, methods in _RESPONSES.items():
        for method, responses in methods.items():
            paths[path][method]["responses"] = _responses(responses)
    paths.setdefault("/v1/jobs", {})["post"] = _submit()
    paths["/v1/jobs/{job_id}/output"] = {"get": _read_output()}
    paths["/predict"] = {"post": _predict()}
    _describe_other_content(paths)
    _describe_openai_routes(paths)
    paths["/v1/rerank"]["post"]["requestBody"] = {"required": True, "content": _json(ref("RerankRequest"))}
    webhook = paths["/v1/jobs/{job_id}/webhook"]["put"]
    webhook["requestBody"] = {"required": True, "content": _json(ref("Webhook"))}
    paths["/v1/deadletters/{job_id}/replay"]["post"]["parameters"].append(_header("Idempotency-Key", _DEDUPLICATES))
    app.openapi_schema = schema
    return schema


def _describe_other_content(paths: dict[str, Any]) -> None:
    """Add the responses of event streams, inputs, metrics, models and readiness."""
    for path in ("/v1/events", "/v1/jobs/{job_id}/events"):
        route = paths[path]["get"]
        route["responses"] = {**_responses({}), "200": _content("the events", "text/event-stream", TEXT)}
        route.setdefault("parameters", []).append(_header("Last-Event-ID", "resume after this event"))
    dead_letter_input = {**_responses({}), "200": _content("the exact input", "*/*", BINARY)}
    paths["/v1/deadletters/{job_id}/input"]["get"]["responses"] = dead_letter_input
    not_ready = {"503": _any_json("not ready, with the reason")}
    paths["/v1/models"]["get"]["responses"] = {"200": _any_json("all models and versions with their status")}
    paths["/readyz"]["get"]["responses"] = {"200": _any_json("ready, with the models served"), **not_ready}
    served = {**_responses({200: "any: a live worker serves it"}), **not_ready}
    paths["/readyz/models/{name}"]["get"]["responses"] = served
    paths["/metrics"]["get"]["responses"] = {"200": _content("Prometheus text", "text/plain", TEXT)}


def _describe_openai_routes(paths: dict[str, Any]) -> None:
    """Add the request bodies and responses of the routes of files and batches."""
    error = _content("error in OpenAI's format", "application/json", ref("OpenAIError"))
    for path, methods in _OPENAI_RESPONSES.items():
        for method, name in methods.items():
            paths[path][method]["responses"] = {"200": _response(name), "4XX": error, "503": error}
    lines = _content("the lines of the file; of a running batch the results so far", "application/jsonl", TEXT)
    paths["/v1/files/{file_id}/content"]["get"]["responses"] = {"200": lines, "4XX": error, "503": error}
    form = object_of({"file": BINARY, "purpose": {"const": "batch"}}, ("file", "purpose"))
    paths["/v1/files"]["post"]["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    paths["/v1/embeddings"]["post"]["requestBody"] = {"required": True, "content": _json(ref("EmbeddingsRequest"))}
    paths["/v1/batches"]["post"]["requestBody"] = {"required": True, "content": _json(ref("BatchRequest"))}


def _responses(names: dict[int, str]) -> dict[str, Any]:
    """Return these responses (see `_RESPONSES`), and the problems that every route may return."""
    problem = _content("Problem", "application/problem+json", ref("Problem"))
    return {**{str(status): _response(name) for status, name in names.items()}, "4XX": problem, "503": problem}


def _response(name: str) -> dict[str, Any]:
    description = name.removeprefix("any: ")
    return _any_json(description) if description != name else _content(name, "application/json", ref(name))


def _any_json(description: str) -> dict[str, Any]:
    return _content(description, "application/json", OBJECT)


def _content(description: str, content_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {content_type: {"schema": schema}}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": TEXT, "description": description}


def _submit() -> dict[str, Any]:
    binary = {"schema": BINARY}
    form = object_of({"image": BINARY, "audio": BINARY, **dict.fromkeys(("text", *parsing.QUERY_FIELDS), TEXT)})
    many = {"type": "array", "items": ref("JobRequest"), "minItems": 1}
    responses = _responses({200: "Job", 202: "Job"})
    for status in ("200", "202"):
        responses[status]["content"] = _json({"anyOf": [ref("Job"), ref("JobsTaken")]})
    return {
        "tags": ["jobs"],
        "summary": "Submit a job, or many",
        "parameters": [
            _header("Prefer", "wait=N: respond once the job is final, after at most N seconds"),
            _header("Idempotency-Key", _DEDUPLICATES),
            *({"name": name, "in": "query", "schema": TEXT} for name in parsing.QUERY_FIELDS),
        ],
        "requestBody": {
            "required": True,
            "content": {
                **_json({"anyOf": [ref("JobRequest"), many]}),
                parsing.NDJSON: {"schema": TEXT},
                "multipart/form-data": {"schema": form},
                **dict.fromkeys(("image/*", "audio/*", "application/octet-stream"), binary),
                "text/plain": {"schema": TEXT},
            },
        },
        "responses": responses,
    }


def _read() -> dict[str, Any]:
    parameters = [
        {"name": "job_id", "in": "path", "required": True, "schema": TEXT},
        {"name": "wait", "in": "query", "schema": {"type": "integer", "minimum": 0}},
    ]
    return {"tags": ["jobs"], "summary": "Read a job, or wait for it", "parameters": parameters}


def _read_output() -> dict[str, Any]:
    answer = {
        "description": "the output alone, or the bytes of its only tensor",
        "content": {**_json({}), "application/octet-stream": {"schema": BINARY}},
    }
    return {**_read(), "summary": "Read a job's output", "responses": {**_responses({}), "200": answer}}


def _predict() -> dict[str, Any]:
    form = object_of({"image": BINARY, "audio": BINARY, "text": TEXT, "model": TEXT})
    predictions = _any_json("labels and probabilities, best first")
    late = _content("not final in time", "application/problem+json", ref("Problem"))
    return {
        "tags": ["jobs"],
        "summary": "Classify an image, audio or a text and wait for the result",
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {**_responses({}), "200": predictions, "504": late},
    }
