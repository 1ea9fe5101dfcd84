"""Parses the body and query of a request, by its content type, into a `JobRequest`."""

import asyncio
from typing import Final

from api.asgi.multipart import FormPart, MultipartForm, Sink, TextField
from api.asgi.request import Request, cache_short, read_query
from jobs.contract.errors import Refused
from jobs.contract.input_fields import MAX_INPUT_TEXT_BYTES, check_no_rows, read_text
from jobs.contract.job_request import JobRequest, read_json_fields, read_text_fields
from jobs.contract.json_reader import read_object

QUERY_FIELDS: Final = ("model", "parameters", "lane", "deadline_ms", "metadata", "webhook", "rows")
FORM_FILES: Final = ("image", "audio")
FORM_FIELDS: Final = (*FORM_FILES, "text", *QUERY_FIELDS)
NDJSON: Final = "application/x-ndjson"
OCTET_STREAM: Final = "application/octet-stream"
CONTENT_TYPES: Final = (
    "application/json",
    NDJSON,
    "multipart/form-data",
    "image/*",
    "audio/*",
    "text/plain",
    OCTET_STREAM,
)
MAX_TEXT_BYTES: Final = 64 << 10
FORM_CHUNK_BYTES: Final = 64 << 10  # bytes of a form parsed before other tasks run


def body_limit_bytes(request: Request, max_body_bytes: int) -> int:
    """Return the most bytes of a request's body, so that a text that is too long is refused before it is received."""
    return min(MAX_INPUT_TEXT_BYTES, max_body_bytes) if request.content_type == "text/plain" else max_body_bytes


async def read_job_request(request: Request, body: bytes) -> JobRequest:
    """Parse a request by its content type; raises Refused."""
    kind = request.content_type
    if kind == "application/json":
        request.query()
        return read_json_fields(read_object(body, "the body"))
    if kind == "multipart/form-data":
        request.query()
        return await read_form(request, body)
    if not kind.startswith(("image/", "audio/")) and kind not in {OCTET_STREAM, "text/plain"}:
        message = f"content type {kind[:80]!r} is not supported" if kind else "the request has no content type"
        raise Refused("unsupported_media_type", message, allowed=list(CONTENT_TYPES))
    if not body:
        raise Refused("invalid_request", "the body is empty")
    fields = _read_query_fields(request.query_string)
    if kind == "text/plain":
        check_no_rows(fields.rows, "text")
        return fields._replace(text=read_text(body, "the body"))
    if kind.startswith("audio/"):
        return fields._replace(audio=body)
    image, raw = (body, None) if kind.startswith("image/") else (None, body)
    return JobRequest(fields.model, image, None, raw, *fields[4:])  # `_replace` takes three times as long


def read_raw_request(request: Request, body: bytes) -> JobRequest:
    """Parse a request with raw bytes, without its input. The same short query gives the same object. Raises Refused."""
    if not body:
        raise Refused("invalid_request", "the body is empty")
    return _read_query_fields(request.query_string)


@cache_short(256)
def _read_query_fields(query: bytes) -> JobRequest:
    """Parse a query. Short ones are cached, because callers repeat them."""
    return read_text_fields(read_query(query, QUERY_FIELDS))


async def read_form(request: Request, body: bytes) -> JobRequest:
    """Parse a multipart form: an `image`, `audio` or `text`, as a file or not, and text fields; raises Refused."""
    texts: dict[str, TextField] = {}
    files: dict[str, bytearray] = {}

    def begin(part: FormPart) -> Sink:
        if part.name in FORM_FILES:
            return files.setdefault(part.name, bytearray()).extend
        is_input = part.name == "text"
        if part.file_name is not None and not is_input:
            raise Refused("invalid_request", f"form field {part.name!r} must be text, not a file")
        limit = MAX_INPUT_TEXT_BYTES if is_input else MAX_TEXT_BYTES
        return texts.setdefault(part.name, TextField(part.name, limit))

    form = MultipartForm(request.header(b"content-type"), FORM_FIELDS, begin)
    form.write(body[:FORM_CHUNK_BYTES])
    for start in range(FORM_CHUNK_BYTES, len(body), FORM_CHUNK_BYTES):
        await asyncio.sleep(0)
        form.write(body[start : start + FORM_CHUNK_BYTES])
    inputs = [name for name in (*FORM_FILES, "text") if name in form.seen]
    if len(inputs) != 1:
        found = f"the fields {' and '.join(inputs)}" if inputs else "no field named image, audio or text"
        raise Refused("invalid_request", f"the form has {found}: send one of them", allowed=list(FORM_FIELDS))
    if form.is_in_part:
        raise Refused("malformed_request", "the multipart body ends within a part")
    fields = {name: text.read() for name, text in texts.items()}
    text = fields.pop("text", None)
    job_request = read_text_fields(fields)
    if text is None:
        (data,) = map(bytes, files.values())
        return job_request._replace(image=data) if "image" in files else job_request._replace(audio=data)
    check_no_rows(job_request.rows, "text")
    return job_request._replace(text=text.removeprefix("\ufeff").encode())
