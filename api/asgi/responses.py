"""Builds and sends responses over ASGI: JSON, and errors in the format that each path prefix uses."""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from api.asgi.single_write import WHOLE_RESPONSE, encode_fields, try_respond
from jobs.contract.errors import JitneyError, RetryLater
from jobs.metrics.refusals import count_refusal

log = logging.getLogger("jitney.api")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]
Details = Mapping[str, Any]  # fields of an error besides its code and message
R = TypeVar("R")  # a kind of response

INTERNAL_ERROR: Final = "unexpected error in the gateway; its log has the details"
RETRY_AFTER_HEADER: Header = (b"retry-after", b"1")  # seconds until the caller should read the job again
# A browser must not use a response as a page, a script or an image of another site.
SECURITY_HEADERS: Final[Sequence[Header]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),  # a URL may have a read token
)
_SECURITY_FIELDS: Final = encode_fields(SECURITY_HEADERS)


class HttpResponse(NamedTuple):
    """A complete response: status, body and headers."""

    status: int
    body: bytes
    headers: Sequence[Header] = ()
    content_type: bytes = b"application/json"

    def common_fields(self) -> bytes:
        """Return the encoded header fields that every response has."""
        return b"content-type: %b\r\ncontent-length: %d\r\n%b" % (self.content_type, len(self.body), _SECURITY_FIELDS)

    async def send(self, scope: Scope, send: Send) -> None:
        """Send the response over ASGI, in one piece if the server supports it (api/asgi/single_write.py)."""
        encoded = self.common_fields()
        if try_respond(send, self.status, self.headers, self.body, encoded):
            return
        if WHOLE_RESPONSE in scope.get("extensions", ()):
            fields = {"headers": self.headers, "encoded": encoded}
            await send({"type": WHOLE_RESPONSE, "status": self.status, "body": self.body, **fields})
            return
        length = (b"content-length", b"%d" % len(self.body))
        headers = [(b"content-type", self.content_type), length, *SECURITY_HEADERS, *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def submit_response(body: bytes, headers: Sequence[Header], *, is_final: bool) -> HttpResponse:
    """Return the response to a submit: 200 if all jobs are final, else 202 with Retry-After."""
    return HttpResponse(200, body, headers) if is_final else HttpResponse(202, body, (*headers, RETRY_AFTER_HEADER))


def error_response(error: JitneyError, path: str, headers: Sequence[Header] = ()) -> HttpResponse:
    """Return the response for an error as `build_error_response`, and count the refusal."""
    count_refusal(error)
    return build_error_response(error, path, headers)


def build_error_response(error: JitneyError, path: str, headers: Sequence[Header] = (), **more: Any) -> HttpResponse:
    """Return the response for an error, in the format of the path's prefix (`_ERROR_FORMATS`, else problem+json).

    `more` holds fields to add to those of the error.
    """
    details = {**error.details, **more}
    retry_after_s = details.pop("retry_after_s", None)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers = (*headers, (b"www-authenticate", b'Bearer realm="jitney"'))
    if retry_after_s is not None:
        headers = (*headers, (b"retry-after", b"%d" % math.ceil(retry_after_s)))
    formats = (build for prefix, build in _ERROR_FORMATS if path == prefix or path.startswith(f"{prefix}/"))
    return next(formats, _problem_json)(error, details, headers)


def _problem_json(error: JitneyError, details: Details, headers: Sequence[Header], **first: Any) -> HttpResponse:
    title, status = HTTPStatus(error.status).phrase, error.status
    body = {**first, "type": f"urn:jitney:error:{error.code}", "title": title, "status": status}
    body |= {"code": error.code, "detail": error.message, **details}
    return HttpResponse(error.status, orjson.dumps(body), headers, b"application/problem+json")


def _predict_error(error: JitneyError, details: Details, headers: Sequence[Header]) -> HttpResponse:
    """Add `"success": false`, as in the Flask tutorial."""
    return _problem_json(error, details, headers, success=False)


def _openai_error(error: JitneyError, details: Details, headers: Sequence[Header]) -> HttpResponse:
    """Build OpenAI's error body. `x-should-retry` tells its clients whether to retry."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    fields = {"message": error.message, "type": kind, "param": None, "code": error.code, **details}
    retry = b"true" if isinstance(error, RetryLater) else b"false"
    return HttpResponse(error.status, orjson.dumps({"error": fields}), (*headers, (b"x-should-retry", retry)))


def _inference_error(error: JitneyError, details: Details, headers: Sequence[Header]) -> HttpResponse:
    """Build the error body of the Open Inference Protocol, which knows status 400 for any invalid request."""
    allowed = details.get("allowed")
    message = (
        error.message if allowed is None else f"{error.message}; allowed: {', '.join(map(str, allowed)) or 'none'}"
    )
    status = HTTPStatus.BAD_REQUEST if error.status == HTTPStatus.UNPROCESSABLE_ENTITY else error.status
    if error.status == HTTPStatus.METHOD_NOT_ALLOWED and not any(name == b"allow" for name, _ in headers):
        headers = (*headers, (b"allow", b"POST"))
    return HttpResponse(status, orjson.dumps({"error": message}), headers)


_ERROR_FORMATS: Final = (
    ("/predict", _predict_error),
    ("/v1/files", _openai_error),
    ("/v1/batches", _openai_error),
    ("/v1/embeddings", _openai_error),
    ("/v2", _inference_error),
)


def with_headers(send: Send, headers: Sequence[Header]) -> Send:
    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] in ("http.response.start", WHOLE_RESPONSE):
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return send_with_headers


async def catch_errors(response: Awaitable[R], path: str) -> R | HttpResponse:
    """Await a response; turn any exception into an error response."""
    try:
        return await response
    except JitneyError as error:
        return error_response(error, path)
    except Exception:
        log.exception("unexpected error while handling %s", path)
        return error_response(JitneyError("internal_error", INTERNAL_ERROR), path)
