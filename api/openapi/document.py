"""Completes FastAPI's OpenAPI document: schemas, responses, and the routes that do not go through FastAPI."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.auth.access_control import PUBLIC_PATHS, PUBLIC_PREFIX
from api.openapi import bulk as openapi_bulk
from api.openapi import webhooks
from api.submission import parsing
from jobs.contract.errors import CODES
from jobs.contract.job import LANES
from jobs.contract.job_request import MAX_METADATA
from jobs.contract.lifecycle import State

PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": sorted(CODES)},
        "detail": {"type": "string"},
        "allowed": {"type": "array", "items": {"type": "string"}},
    },
}
_NULLABLE_TIME = {"type": ["string", "null"], "format": "date-time"}
_NUMBER = {"type": ["number", "null"]}
JOB = {
    "type": "object",
    "required": ["id", "model", "version", "status", "created_at", "urls"],
    "properties": {
        "id": {"type": "string"},
        "model": {"type": "string"},
        "version": {"type": "string"},
        "status": {"type": "string", "enum": [state.value for state in State]},
        "lane": {"type": "string", "enum": list(LANES)},
        "created_at": {"type": "string", "format": "date-time"},
        "started_at": _NULLABLE_TIME,
        "finished_at": _NULLABLE_TIME,
        "attempts": {"type": "integer"},
        "output": {"type": ["object", "null"]},
        "error": {"type": ["object", "null"]},
        "timings": {
            "type": "object",
            "description": "ms per stage",
            "properties": dict.fromkeys(("queue", "decode", "batch", "infer", "total"), _NUMBER),
        },
        "batch_size": {"type": ["integer", "null"]},
        "position": {"type": ["integer", "null"]},
        "eta_ms": _NUMBER,
        "metadata": {"type": "object"},
        "urls": {"type": "object"},
    },
}
_TEXT = {"type": "string"}
REQUEST = {
    "type": "object",
    "required": ["input"],
    "additionalProperties": False,
    "properties": {
        "model": _TEXT,
        "input": {
            "type": "object",
            "properties": {
                "image": {"type": "string", "description": "base64, or a data: URL"},
                "tensors": {"type": "object", "description": "name → {datatype, shape, data | b64}"},
            },
        },
        "parameters": {"type": "object"},
        "lane": {"type": "string", "enum": list(LANES)},
        "deadline_ms": {"type": "integer", "minimum": 1},
        "metadata": {"type": "object", "additionalProperties": _TEXT, "maxProperties": MAX_METADATA},
        "webhook": {"$ref": "#/components/schemas/Webhook"},
    },
}


_ENTRY = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "status"],
            "properties": {
                "code": {"type": "string", "enum": sorted(CODES)},
                "message": _TEXT,
                "status": {"type": "integer"},
            },
        }
    },
}
_ENTRIES = {"type": "array", "items": {"anyOf": [{"$ref": "#/components/schemas/Job"}, _ENTRY]}}
SUBMITTED_JOBS = {"type": "object", "required": ["jobs"], "properties": {"jobs": _ENTRIES}}
_DEAD_LETTER_FIELDS = {
    "tenant": _TEXT,
    "kind": _TEXT,
    "parameters": {"type": "object"},
    **{name: {"type": "integer"} for name in ("input_bytes", "kills", "losses", "retries")},
    "replayed_as": {"type": ["string", "null"]},
}
DEAD_LETTER = {**JOB, "properties": {**JOB["properties"], **_DEAD_LETTER_FIELDS}}  # type: ignore[dict-item]
_CURSOR = {"type": ["string", "null"]}
_LISTED = {name: schema for name, schema in JOB["properties"].items() if name != "output"}  # type: ignore[attr-defined]
LISTED_JOB = {**JOB, "description": "a job without its output; read the job to get it", "properties": _LISTED}
_JOBS = {
    "type": "array",
    "items": {"$ref": "#/components/schemas/ListedJob"},
    "description": "a page may be short or empty although `next_cursor` is set",
}
JOB_LIST = {"type": "object", "properties": {"jobs": _JOBS, "next_cursor": _CURSOR}}
_DEAD_LETTERS = {"type": "array", "items": {"$ref": "#/components/schemas/DeadLetter"}}
DEAD_LETTER_LIST = {"type": "object", "properties": {"deadletters": _DEAD_LETTERS, "next_cursor": _CURSOR}}
SCHEMAS = {
    "Job": JOB,
    "ListedJob": LISTED_JOB,
    "JobList": JOB_LIST,
    "JobsTaken": SUBMITTED_JOBS,
    "DeadLetter": DEAD_LETTER,
    "DeadLetterList": DEAD_LETTER_LIST,
    "Problem": PROBLEM,
    "JobRequest": REQUEST,
    **webhooks.SCHEMAS,
    **openapi_bulk.SCHEMAS,
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
    paths.setdefault("/v1/jobs", {})["post"] = _submit()
    paths.setdefault("/v1/jobs/{job_id}", {})["get"] = _read()
    paths["/v1/jobs/{job_id}/output"] = {"get": _read_output()}
    paths["/predict"] = {"post": _predict()}
    paths["/v1/jobs"]["get"]["responses"] = _responses(_200="JobList")
    paths["/v1/jobs/{job_id}"]["delete"]["responses"] = _responses(_200="Job")
    _describe_dead_letters(paths)
    event_stream = {"description": "the events", "content": {"text/event-stream": {"schema": _TEXT}}}
    for path in ("/v1/events", "/v1/jobs/{job_id}/events"):
        paths[path]["get"]["responses"] = {**_responses(), "200": event_stream}
        last = {"name": "Last-Event-ID", "in": "header", "schema": _TEXT, "description": "resume after this event"}
        paths[path]["get"].setdefault("parameters", []).append(last)
    _describe_webhooks(paths)
    openapi_bulk.describe_bulk_routes(paths)
    paths["/v1/models"]["get"]["responses"] = {"200": _any_json("all models and versions with their status")}
    not_ready = _any_json("not ready, with the reason")
    paths["/readyz"]["get"]["responses"] = {"200": _any_json("ready, with the models served"), "503": not_ready}
    model_responses = {**_responses(), "200": _any_json("a live worker serves it"), "503": not_ready}
    paths["/readyz/models/{name}"]["get"]["responses"] = model_responses
    text = {"description": "Prometheus text", "content": {"text/plain": {"schema": _TEXT}}}
    paths["/metrics"]["get"]["responses"] = {"200": text}
    app.openapi_schema = schema
    return schema


def _describe_dead_letters(paths: dict[str, Any]) -> None:
    all_path, one_path = "/v1/deadletters", "/v1/deadletters/{job_id}"
    key = {"name": "Idempotency-Key", "in": "header", "schema": _TEXT, "description": "deduplicates retries"}
    binary = {"description": "the exact input", "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    paths[all_path]["get"]["responses"] = _responses(_200="DeadLetterList")
    paths[all_path]["delete"]["responses"] = {**_responses(), "200": _any_json("the number purged")}
    paths[f"{all_path}/replay"]["post"]["responses"] = {**_responses(), "200": _any_json("counts by result")}
    paths[one_path]["get"]["responses"] = _responses(_200="DeadLetter")
    paths[one_path]["delete"]["responses"] = {**_responses(), "200": _any_json("the number purged")}
    paths[f"{one_path}/input"]["get"]["responses"] = {**_responses(), "200": binary}
    paths[f"{one_path}/replay"]["post"]["responses"] = _responses(_202="Job")
    paths[f"{one_path}/replay"]["post"]["parameters"].append(key)


def _describe_webhooks(paths: dict[str, Any]) -> None:
    counts = {"200": _any_json("the result of the call")}
    for path, methods in webhooks.RESPONSES.items():
        for method, answers in methods.items():
            paths[path][method]["responses"] = {**({} if "_200" in answers else counts), **_responses(**answers)}
    webhooks.describe_webhook_body(paths["/v1/jobs/{job_id}/webhook"]["put"])


def _responses(**answers: str) -> dict[str, Any]:
    """Return responses by status, as in `_200="Job"`, plus the problem responses that every route may return."""
    described = {
        status.lstrip("_"): {"description": name, "content": {"application/json": {"schema": _ref(name)}}}
        for status, name in answers.items()
    }
    problem = {"description": "Problem", "content": {"application/problem+json": {"schema": _ref("Problem")}}}
    return {**described, "4XX": problem, "503": problem}


def _any_json(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": {"type": "object"}}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _submit() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "properties": {"image": binary["schema"], **dict.fromkeys(parsing.QUERY_FIELDS, _TEXT)}}
    headers = {
        "Prefer": "wait=N: respond once the job is final, after at most N seconds",
        "Idempotency-Key": "deduplicates retries",
    }
    many = {"type": "array", "items": _ref("JobRequest"), "minItems": 1}
    responses = _responses(_200="Job", _202="Job")
    for status in ("200", "202"):
        responses[status]["content"]["application/json"]["schema"] = {"anyOf": [_ref("Job"), _ref("JobsTaken")]}
    return {
        "tags": ["jobs"],
        "summary": "Submit a job, or many",
        "parameters": [
            *({"name": n, "in": "header", "schema": _TEXT, "description": d} for n, d in headers.items()),
            *({"name": n, "in": "query", "schema": _TEXT} for n in parsing.QUERY_FIELDS),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"anyOf": [_ref("JobRequest"), many]}},
                parsing.NDJSON: {"schema": _TEXT},
                "multipart/form-data": {"schema": form},
                "image/*": binary,
                "application/octet-stream": binary,
            },
        },
        "responses": responses,
    }


def _read() -> dict[str, Any]:
    return {
        "tags": ["jobs"],
        "summary": "Read a job, or wait for it",
        "parameters": [
            {"name": "job_id", "in": "path", "required": True, "schema": _TEXT},
            {"name": "wait", "in": "query", "schema": {"type": "integer", "minimum": 0}},
        ],
        "responses": _responses(_200="Job"),
    }


def _read_output() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    answer = {
        "description": "the output alone, or the bytes of its only tensor",
        "content": {"application/json": {"schema": {}}, "application/octet-stream": binary},
    }
    return {**_read(), "summary": "Read a job's output", "responses": {**_responses(), "200": answer}}


def _predict() -> dict[str, Any]:
    image = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["image"], "properties": {"image": image, "model": _TEXT}}
    predictions = _any_json("labels and probabilities, best first")
    late = {"description": "not final in time", "content": {"application/problem+json": {"schema": _ref("Problem")}}}
    return {
        "tags": ["jobs"],
        "summary": "Classify an image and wait for the result",
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {**_responses(), "200": predictions, "504": late},
    }
