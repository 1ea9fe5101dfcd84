"""Reads what callers send, through any door, into one shape: a draft of a job. Knows formats, not models."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson
import pybase64
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from api.receiving import Request, read_query
from jobs.errors import Refused
from jobs.job import LANES

JSON_FIELDS: Final = ("model", "input", "parameters", "lane", "deadline_ms", "metadata", "webhook")
QUERY_FIELDS: Final = ("model", "parameters", "lane", "deadline_ms", "metadata", "webhook")
FORM_FIELDS: Final = ("image", *QUERY_FIELDS)
NDJSON: Final = "application/x-ndjson"
CONTENT_TYPES: Final = ("application/json", NDJSON, "multipart/form-data", "image/*", "application/octet-stream")
MAX_PARTS: Final = 16
MAX_TEXT_BYTES: Final = 64 << 10
MAX_JSON_VALUES: Final = 1_000_000
FORM_TURN: Final = 64 << 10  # bytes of a form that are read in a row; then others have their turn
MAX_METADATA: Final = 16
MAX_METADATA_TEXT: Final = 512
SHORT_QUERY: Final = 256  # bytes; short enough to be kept
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class Draft(NamedTuple):
    """A job as a caller asks for it. Exactly one of image, tensors and raw is given; raw may turn out an image.

    `webhook` is as it came: what it says is checked where the rules for addresses are (jobs/webhooks.py).
    """

    model: str = ""
    image: bytes | None = None
    tensors: Mapping[str, Any] | None = None
    raw: bytes | None = None
    parameters: Mapping[str, Any] = _NONE
    lane: str = "interactive"
    deadline_ms: int | None = None
    metadata: Mapping[str, str] = _NONE
    webhook: Any = None


async def read_draft(request: Request, body: bytes) -> Draft:
    """Read a request by its content type; raises Refused."""
    kind = request.content_type
    if kind == "application/json":
        request.query()
        return from_fields(_object(body, "the body"))
    if kind == "multipart/form-data":
        request.query()
        return await from_form(request, body)
    if not kind.startswith("image/") and kind != "application/octet-stream":
        message = f"content type {kind[:80]!r} is not taken here" if kind else "the request has no content type"
        raise Refused("unsupported_media_type", message, allowed=list(CONTENT_TYPES))
    if not body:
        raise Refused("invalid_request", "the body is empty")
    query = request.query_string
    draft = _from_short_query(query) if len(query) <= SHORT_QUERY else _from_query(query)
    return draft._replace(image=body) if kind.startswith("image/") else draft._replace(raw=body)


def _from_query(query: bytes) -> Draft:
    return _from_text_fields(read_query(query, QUERY_FIELDS))


@lru_cache(256)
def _from_short_query(query: bytes) -> Draft:
    """Read it once: callers whose body is the input send the same query again and again."""
    return _from_query(query)


def from_fields(fields: Mapping[str, Any], model: str = "", lane: str = "interactive") -> Draft:
    """Read the fields of a JSON job; `model` and `lane` stand where it names none. Raises Refused."""
    if unknown := [name for name in fields if name not in JSON_FIELDS]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(JSON_FIELDS))
    given = fields.get("input")
    if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in ("image", "tensors"):
        message = 'field "input" must be an object with one of the allowed fields'
        raise Refused("invalid_request", message, allowed=["image", "tensors"])
    named = fields.get("model", "")
    draft = _checked(
        Draft(
            model=model if named == "" else named,
            parameters=fields.get("parameters", {}),
            lane=fields.get("lane", lane),
            deadline_ms=fields.get("deadline_ms"),
            metadata=fields.get("metadata", {}),
            webhook=fields.get("webhook"),
        )
    )
    if "image" in given:
        return draft._replace(image=_base64(given["image"]))
    if isinstance(given["tensors"], dict):
        return draft._replace(tensors=given["tensors"])
    raise Refused("invalid_request", 'field "input.tensors" must be an object of named tensors')


async def from_form(request: Request, body: bytes) -> Draft:
    """Read a multipart form: the file field `image`, and text fields."""
    fields: dict[str, str] = {}
    image: bytes | None = None
    form = await _parse_form(request, body)
    for name, value in form.multi_items():
        if name not in FORM_FIELDS:
            raise Refused("invalid_request", f"unknown form field {name[:80]!r}", allowed=list(FORM_FIELDS))
        if name in fields or (name == "image" and image is not None):
            raise Refused("invalid_request", f"form field {name!r} is given twice")
        if name == "image":
            image = await value.read() if isinstance(value, UploadFile) else value.encode()
        elif isinstance(value, UploadFile):
            raise Refused("invalid_request", f"form field {name!r} must be text, not a file")
        else:
            fields[name] = value
    await form.close()
    if image is None:
        raise Refused("invalid_request", "the form has no file field named image", allowed=list(FORM_FIELDS))
    return _from_text_fields(fields)._replace(image=image)


async def _parse_form(request: Request, body: bytes) -> FormData:
    if request.content_type != "multipart/form-data":
        message = f"content type {request.content_type[:80]!r} is not taken here"
        raise Refused("unsupported_media_type", message, allowed=["multipart/form-data"])

    async def stream() -> AsyncGenerator[bytes]:
        yield body[:FORM_TURN]
        for at in range(FORM_TURN, len(body), FORM_TURN):
            await asyncio.sleep(0)
            yield body[at : at + FORM_TURN]

    headers = Headers({"content-type": request.header(b"content-type")})
    limits = {"max_files": 1, "max_fields": MAX_PARTS, "max_part_size": MAX_TEXT_BYTES}
    try:
        return await MultiPartParser(headers, stream(), **limits).parse()
    except MultiPartException as error:
        raise Refused("malformed_request", f"the multipart body can not be read: {error.message}") from error
    except (UnicodeDecodeError, LookupError, ValueError) as error:
        raise Refused("malformed_request", "the multipart body can not be read") from error


def _from_text_fields(fields: Mapping[str, str]) -> Draft:
    """Read the fields that doors without JSON give as text."""
    deadline = fields.get("deadline_ms")
    if deadline is not None and not (deadline.isascii() and deadline.isdigit() and len(deadline) < 12):
        raise Refused("invalid_request", "deadline_ms must be a whole number of milliseconds")
    return _checked(
        Draft(
            model=fields.get("model", ""),
            parameters=_object(fields.get("parameters", "{}"), "parameters"),
            lane=fields.get("lane", "interactive"),
            deadline_ms=None if deadline is None else int(deadline),
            metadata=_object(fields.get("metadata", "{}"), "metadata"),
            webhook=_webhook(fields.get("webhook")),
        )
    )


def _webhook(text: str | None) -> Any:
    """Read a webhook that is given as text: a URL, or an object in JSON."""
    return parse(text, "webhook") if text and text.startswith("{") else text


def _checked(draft: Draft) -> Draft:
    if not isinstance(draft.model, str):
        raise Refused("invalid_request", 'field "model" must be a string')
    if not isinstance(draft.parameters, dict):
        raise Refused("invalid_request", 'field "parameters" must be an object')
    if draft.lane not in LANES:
        raise Refused("invalid_request", 'field "lane" must be one of the allowed words', allowed=list(LANES))
    deadline = draft.deadline_ms
    if deadline is not None and (not isinstance(deadline, int) or isinstance(deadline, bool) or deadline < 1):
        raise Refused("invalid_request", "deadline_ms must be a whole number of milliseconds, at least 1")
    metadata = draft.metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused("invalid_request", 'field "metadata" must be an object of strings')
    if len(metadata) > MAX_METADATA or any(len(k) + len(v) > MAX_METADATA_TEXT for k, v in metadata.items()):
        message = f"metadata takes {MAX_METADATA} pairs of at most {MAX_METADATA_TEXT} characters each"
        raise Refused("invalid_request", message, limit=MAX_METADATA)
    return draft


def parse(text: bytes | str, what: str) -> Any:
    """Read JSON; raises Refused. Counts before it reads: small values take thirty times their bytes."""
    if isinstance(text, bytes) and len(text) > MAX_JSON_VALUES:
        values = text.count(b",") + text.count(b"[") + text.count(b"{")
        if values > MAX_JSON_VALUES:
            message = f"{what} may have {MAX_JSON_VALUES} JSON values, and has {values}: send tensors as b64 or raw"
            raise Refused("body_too_large", message, limit=MAX_JSON_VALUES)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refused("malformed_request", f"{what} is not valid JSON: {error}") from error


def _object(text: bytes | str, what: str) -> dict[str, Any]:
    return as_object(parse(text, what), what)


def as_object(value: Any, what: str) -> dict[str, Any]:
    """Give what must be an object; raises Refused."""
    if not isinstance(value, dict):
        raise Refused("invalid_request", f"{what} must be a JSON object")
    return value


def _base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise Refused("invalid_request", 'field "input.image" must be base64 text or a data: URL')
    if text.startswith("data:"):
        text = text.partition(",")[2]
    return from_base64(text, 'field "input.image"')


def from_base64(text: str, what: str) -> bytes:
    """Read base64; raises Refused."""
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError as error:
        raise Refused("malformed_request", f"{what} is not base64: {error}") from error
