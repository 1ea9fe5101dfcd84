"""Builds the OpenAPI document: paths and parameters from FastAPI's routes, bodies and answers from `OPERATIONS`."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any, Final

from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from api.auth.access_control import PUBLIC_PATHS, PUBLIC_PREFIX
from api.auth.authentication import AUTH_SCHEMES, KEY_HEADERS
from api.auth.job_tokens import QUERY_FIELD
from api.openapi import hot_routes
from api.openapi.content import ContentWriter
from api.openapi.error_responses import ErrorResponses
from api.openapi.operations import (
    EVERY_ANSWER,
    HEADERS,
    NOTIFICATION_HEADERS,
    NOTIFICATIONS,
    OPERATIONS,
    REQUEST_HEADERS,
    Operation,
    header_refs,
)
from api.openapi.schemas.bodies import without_null

DESCRIPTION: Final = """\
A job is accepted at once and run in a micro-batch. Its caller waits, reads it later, follows its events, or is
notified by a webhook.

Without API keys, anyone on the machine of the service may call it. From the first key on, each call needs one. A
request may be packed with `Content-Encoding: gzip` or `deflate`. `HEAD` works where `GET` does.
"""
TAGS: Final = {
    "jobs": "Submit, read, wait for, list and cancel jobs.",
    "events": "Server-sent events of jobs.",
    "text": "Routes that answer texts in the same request.",
    "open inference": "The Open Inference Protocol v2, as Triton and KServe have it.",
    "files": "Files of lines for batches, by OpenAI's protocol.",
    "batches": "Bulk jobs over the lines of a file, by OpenAI's protocol.",
    "dead letters": "Failed jobs that are kept with their input.",
    "webhooks": "Notifications of the end of a job, and their deliveries.",
    "queues": "Queues of models: what waits and runs; pause, resume and purge.",
    "workers": "Live workers; pause and resume them.",
    "tenants": "Usage and limits of tenants.",
    "models": "Models, their versions and their rollouts.",
    "health": "Whether the service runs and accepts jobs, and its metrics.",
}
PATH_PARAMETERS: Final = {
    "job_id": "The id of the job.",
    "delivery_id": "The id of the delivery, which receivers get as `webhook-id`.",
    "file_id": "The id of the file.",
    "batch_id": "The id of the batch.",
    "name": "The name of the model.",
    "version": "The number of the version.",
    "model": "The name of the model.",
    "worker_id": "The id of the worker.",
    "tenant": "The name of the tenant.",
}
READ_TOKEN: Final = {
    "readToken": {
        "type": "apiKey",
        "in": "query",
        "name": QUERY_FIELD.decode(),
        "description": "A read token of the job, from `POST /v1/jobs/{job_id}/token`, in place of an API key.",
    }
}
RATE_LIMIT_HEADERS: Final = ("RateLimit-Policy", "RateLimit")


def build_document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """Build the document of an app with these routes. It takes a fraction of a second."""
    schemes = security_schemes()
    declared = get_openapi(title="Jitney", version="", routes=[*hot_routes.router.routes, *routes])
    content = ContentWriter()
    errors = ErrorResponses(content)
    for path, methods in declared["paths"].items():
        is_public = path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIX)
        for entry in methods.values():
            operation = OPERATIONS[entry["operationId"]]
            more_headers = () if is_public else RATE_LIMIT_HEADERS
            _complete(entry, operation, content)
            _add_answers(entry, operation, content, more_headers)
            errors.add(path, entry["responses"], operation, more_headers)
            if is_public:
                entry["security"] = []
            elif "token_expired" in operation.errors:
                entry["security"] = [{name: []} for name in (*schemes, *READ_TOKEN)]
    return {
        "openapi": declared["openapi"],
        "info": _info(),
        "servers": [{"url": "/", "description": "The gateway that serves this document."}],
        "security": [{name: []} for name in schemes],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": declared["paths"],
        "webhooks": {name: {"post": _notification(name, content)} for name in NOTIFICATIONS},
        "components": {
            "schemas": content.schemas,
            "responses": errors.share(),
            "headers": {name: {"description": text, "schema": schema} for name, (schema, text) in HEADERS.items()},
            "securitySchemes": schemes | READ_TOKEN,
        },
    }


def security_schemes() -> dict[str, dict[str, str]]:
    """Return all ways in which a request may name its API key."""
    other = {"type": "apiKey", "in": "header"}
    headers = [name.decode() for name in KEY_HEADERS]
    schemes = " or ".join(f"`Authorization: {name.title()} jk_…`" for name in AUTH_SCHEMES if name != "bearer")
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer jk_…`"},
        **{name: {**other, "name": name, "description": f"`{name}: jk_…`"} for name in headers},
        "authorization": {
            **other,
            "name": "Authorization",
            "description": f"{schemes}, as some clients send it.",
        },
    }


def _info() -> dict[str, Any]:
    """Return what the installed package says about itself."""
    info: dict[str, Any] = {"title": "Jitney", "description": DESCRIPTION}
    try:
        package = metadata("jitney")
    except PackageNotFoundError:
        return {**info, "version": "unknown"}
    urls = dict(text.split(", ", 1) for text in package.get_all("Project-URL") or [])
    if homepage := next(iter(urls.values()), ""):
        info["contact"] = {"name": "Jitney", "url": homepage}
    licence = package["License-Expression"]
    return {
        **info,
        "summary": package["Summary"],
        "version": package["Version"],
        "license": {"name": licence, "identifier": licence},
    }


def _notification(name: str, content: ContentWriter) -> dict[str, Any]:
    """Return the request that a receiver of webhooks gets."""
    summary, body = NOTIFICATIONS[name]
    headers = [
        {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in NOTIFICATION_HEADERS.items()
    ]
    return {
        "operationId": name,
        "tags": ["webhooks"],
        "summary": summary,
        "description": "Sent to a webhook, as Standard Webhooks has it. It may come twice, and in any order.",
        "security": [],
        "parameters": headers,
        "requestBody": {"required": True, "content": content.write(body)},
        "responses": {
            "2XX": {"description": "The webhook is delivered."},
            "410": {"description": "The delivery has failed, and is not tried again."},
            "default": {"description": "The attempt has failed, and there will be another one."},
        },
    }


def _complete(entry: dict[str, Any], operation: Operation, content: ContentWriter) -> None:
    """Add the body of an operation, its headers, and descriptions of its parameters."""
    if operation.body is not None:
        body = content.write(operation.body)
        entry["requestBody"] = {"required": operation.is_body_required, "content": body}
    parameters = entry.get("parameters", [])
    for parameter in parameters:
        schema = parameter["schema"]
        without_null(schema)
        if schema.get("default") == "":  # it may be absent
            del schema["default"]
        for name in ("title", "description"):
            schema.pop(name, None)
        if parameter["in"] == "path":
            parameter["description"] = PATH_PARAMETERS[parameter["name"]]
    for name in operation.headers:
        text = REQUEST_HEADERS[name]
        parameters.append({"name": name, "in": "header", "description": text, "schema": {"type": "string"}})
    if parameters:
        entry["parameters"] = parameters


def _add_answers(
    entry: dict[str, Any], operation: Operation, content: ContentWriter, more_headers: Sequence[str]
) -> None:
    responses = entry["responses"] = {}
    for status, answer in operation.answers.items():
        response: dict[str, Any] = {"description": answer.description}
        response["headers"] = header_refs((*answer.headers, *more_headers, *EVERY_ANSWER))
        if answer.content:
            response["content"] = content.write(answer.content, answer.example)
        responses[str(status)] = response
