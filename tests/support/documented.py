"""Compares answers of the service with its OpenAPI document: status, media type, header fields and body."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import MagicMock

import httpx2
from pydantic import TypeAdapter

from api.app import create_app
from api.openapi.document import build_document
from api.openapi.operations import HEADERS, OPERATIONS
from api.openapi.schemas.errors import OpenAIError, PredictProblem, Problem
from api.openapi.schemas.inference import InferenceError

READ_BYTES = 256 << 10  # larger bodies are left to the test that asked for them


@cache
def document() -> dict[str, Any]:
    """The document, as every gateway builds it."""
    return build_document(create_app(MagicMock())._app.routes)  # type: ignore[attr-defined]


@cache
def _patterns() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """The paths with their methods, those without parameters first."""
    paths = sorted(document()["paths"].items(), key=lambda pair: "{" in pair[0])
    return [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), methods) for path, methods in paths]


@cache
def _adapter(operation_id: str, status: int, media_type: str, *, is_inference: bool) -> TypeAdapter[Any]:
    if status < 400 or (media_type == "application/json" and status in OPERATIONS[operation_id].answers):
        return TypeAdapter(OPERATIONS[operation_id].answers[status].content[media_type])
    if media_type == "application/json":
        return TypeAdapter(InferenceError if is_inference else OpenAIError)
    return TypeAdapter(PredictProblem if operation_id == "predictImage" else Problem)


def check_answer(response: httpx2.Response) -> None:
    """Fail if an answer is not as documented. Other paths and methods than those of the document are not looked at."""
    request = response.request
    methods = next((methods for path, methods in _patterns() if path.fullmatch(request.url.path)), {})
    if (entry := methods.get(request.method.lower())) is None:
        return
    what = f"{request.method} {request.url.path}: {response.status_code}"
    answer = entry["responses"].get(str(response.status_code))
    assert answer is not None, f"{what} is not documented"
    if "$ref" in answer:
        answer = document()["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    sent = {name for name in HEADERS if name in response.headers}
    assert sent <= set(answer.get("headers", ())), f"{what} has undocumented header fields: {sent}"
    media_type = response.headers.get("content-type", "").partition(";")[0]
    content = answer.get("content", {})
    assert bool(content) == bool(media_type), what
    assert not media_type or {media_type, media_type.partition("/")[0] + "/*"} & set(content), f"{what} {media_type}"
    if media_type.endswith("json") and int(response.headers.get("content-length", READ_BYTES)) < READ_BYTES:
        is_inference = request.url.path.startswith("/v2")
        adapter = _adapter(entry["operationId"], response.status_code, media_type, is_inference=is_inference)
        adapter.validate_json(response.read(), strict=True)


HOOKS = {"response": [check_answer]}


@contextmanager
def unchecked(client: httpx2.Client) -> Iterator[None]:
    """Check no answer to this client: the test has written what no worker writes."""
    client.event_hooks = {}
    yield
    client.event_hooks = HOOKS
