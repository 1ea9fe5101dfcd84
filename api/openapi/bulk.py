"""OpenAPI schemas and responses of the routes of files and batches."""

from typing import Any, Final, get_args

from jobs.bulk.input_lines import URL
from jobs.bulk.records import TIMES, Status

_TEXT: Final = {"type": "string"}
_MAYBE_TEXT: Final = {"type": ["string", "null"]}
_MAYBE_SECONDS: Final = {"type": ["integer", "null"], "description": "seconds since 1970"}
_METADATA: Final = {"type": "object", "additionalProperties": _TEXT, "maxProperties": 16}
_EXPIRY: Final = {"type": "object", "properties": {"anchor": {"const": "created_at"}, "seconds": {"type": "integer"}}}
_COUNT: Final = {"type": "integer", "minimum": 0}
FILE: Final = {
    "type": "object",
    "required": ["id", "object", "bytes", "created_at", "filename", "purpose", "status"],
    "properties": {
        "id": _TEXT,
        "object": {"const": "file"},
        "bytes": _COUNT,
        "created_at": {"type": "integer"},
        "expires_at": _MAYBE_SECONDS,
        "filename": _TEXT,
        "purpose": {"type": "string", "enum": ["batch", "batch_output"]},
        "status": {"const": "processed"},
        "status_details": _MAYBE_TEXT,
    },
}
_REASON: Final = {"code": _TEXT, "message": _TEXT, "param": _MAYBE_TEXT, "line": {"type": ["integer", "null"]}}
BATCH: Final = {
    "type": "object",
    "required": ["id", "object", "endpoint", "input_file_id", "completion_window", "status", "created_at"],
    "properties": {
        "id": _TEXT,
        "object": {"const": "batch"},
        "endpoint": _TEXT,
        "model": _MAYBE_TEXT,
        "errors": {
            "type": ["object", "null"],
            "properties": {"data": {"type": "array", "items": {"type": "object", "properties": _REASON}}},
        },
        "input_file_id": _TEXT,
        "completion_window": _TEXT,
        "status": {"type": "string", "enum": list(get_args(Status))},
        "output_file_id": _MAYBE_TEXT,
        "error_file_id": _MAYBE_TEXT,
        "created_at": {"type": "integer"},
        "expires_at": _MAYBE_SECONDS,
        **{f"{status}_at": _MAYBE_SECONDS for status in TIMES},
        "request_counts": {"type": "object", "properties": dict.fromkeys(("total", "completed", "failed"), _COUNT)},
        "usage": {"type": ["object", "null"]},
        "metadata": _METADATA,
        "retry_of": _TEXT,
        "stalled": {"type": "string", "description": "why the batch cannot make progress at present"},
    },
}
BATCH_REQUEST: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "input_file_id": _TEXT,
        "endpoint": {"const": URL},
        "completion_window": {"type": "string", "description": "a duration such as 24h, 90m or 600s"},
        "metadata": _METADATA,
        "output_expires_after": _EXPIRY,
        "webhook": {"type": "string", "format": "uri"},
        "retry_of": {"type": "string", "description": "id of a batch whose failed lines to run again"},
    },
}
ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "param": _MAYBE_TEXT, "code": _TEXT},
        }
    },
}


def _list_of(name: str) -> dict[str, Any]:
    items = {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}
    ends = {"first_id": _MAYBE_TEXT, "last_id": _MAYBE_TEXT, "has_more": {"type": "boolean"}}
    return {
        "type": "object",
        "required": ["data", "has_more"],
        "properties": {"object": {"const": "list"}, "data": items, **ends},
    }


SCHEMAS: Final = {
    "File": FILE,
    "FileList": _list_of("File"),
    "Batch": BATCH,
    "BatchList": _list_of("Batch"),
    "BatchRequest": BATCH_REQUEST,
    "OpenAIError": ERROR,
}
RESPONSES: Final = {
    "/v1/files": {"post": "File", "get": "FileList"},
    "/v1/files/{file_id}": {"get": "File", "delete": ""},
    "/v1/files/{file_id}/content": {"get": "*"},
    "/v1/batches": {"post": "Batch", "get": "BatchList"},
    "/v1/batches/{batch_id}": {"get": "Batch"},
    "/v1/batches/{batch_id}/cancel": {"post": "Batch"},
}


def describe_bulk_routes(paths: dict[str, Any]) -> None:
    """Add the request bodies and responses of the routes to `paths`."""
    for path, methods in RESPONSES.items():
        for method, name in methods.items():
            error = {"description": "error in OpenAI's format", "content": _json("OpenAIError")}
            paths[path][method]["responses"] = {"200": _response(name), "4XX": error, "503": error}
    form = {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"const": "batch"}},
    }
    paths["/v1/files"]["post"]["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    paths["/v1/batches"]["post"]["requestBody"] = {"required": True, "content": _json("BatchRequest")}


def _response(name: str) -> dict[str, Any]:
    if name == "*":
        lines = {"application/jsonl": {"schema": {"type": "string"}}}
        return {"description": "the lines of the file; of a running batch the results so far", "content": lines}
    if not name:
        deleted = {"application/json": {"schema": {"type": "object"}}}
        return {"description": "confirmation of the deletion", "content": deleted}
    return {"description": name, "content": _json(name)}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
