"""Reads what callers send, through any door, into a draft of a job (jobs/drafts.py)."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from functools import lru_cache
from typing import Any, Final

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from api.receiving import Request, read_query
from jobs.drafts import Draft, checked, from_fields
from jobs.errors import Refused
from jobs.json_reader import read_json, read_object

QUERY_FIELDS: Final = ("model", "parameters", "lane", "deadline_ms", "metadata", "webhook")
FORM_FIELDS: Final = ("image", *QUERY_FIELDS)
NDJSON: Final = "application/x-ndjson"
CONTENT_TYPES: Final = ("application/json", NDJSON, "multipart/form-data", "image/*", "application/octet-stream")
MAX_PARTS: Final = 16
MAX_TEXT_BYTES: Final = 64 << 10
FORM_TURN: Final = 64 << 10  # bytes of a form that are read in a row; then others have their turn
SHORT_QUERY: Final = 256  # bytes; short enough to be kept


async def read_draft(request: Request, body: bytes) -> Draft:
    """Read a request by its content type; raises Refused."""
    kind = request.content_type
    if kind == "application/json":
        request.query()
        return from_fields(read_object(body, "the body"))
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
    return checked(
        Draft(
            model=fields.get("model", ""),
            parameters=read_object(fields.get("parameters", "{}"), "parameters"),
            lane=fields.get("lane", "interactive"),
            deadline_ms=None if deadline is None else int(deadline),
            metadata=read_object(fields.get("metadata", "{}"), "metadata"),
            webhook=_webhook(fields.get("webhook")),
        )
    )


def _webhook(text: str | None) -> Any:
    """Read a webhook that is given as text: a URL, or an object in JSON."""
    return read_json(text, "webhook") if text and text.startswith("{") else text
