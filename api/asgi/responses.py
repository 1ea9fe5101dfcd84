"""What goes out over ASGI: JSON, and errors in the form that a prefix has. Here alone an error becomes an answer."""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson

from api.asgi.single_write import WHOLE_RESPONSE
from jobs.contract.errors import JitneyError, RetryLater

log = logging.getLogger("jitney.api")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

RETRY_AFTER_HEADER: Header = (b"retry-after", b"1")  # until a job is looked at again
# No answer is a page, a script or a picture of another site's page, whatever a browser makes of its bytes.
SECURITY_HEADERS: Final[Sequence[Header]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class HttpResponse(NamedTuple):
    """A whole response."""

    status: int
    body: bytes
    headers: Sequence[Header] = ()
    content_type: bytes = b"application/json"

    def all_headers(self) -> list[Header]:
        """List its headers, those that every answer has among them."""
        length = b"%d" % len(self.body)
        return [(b"content-type", self.content_type), (b"content-length", length), *SECURITY_HEADERS, *self.headers]

    async def send(self, scope: Scope, send: Send) -> None:
        """Send it over ASGI; as one message where the server takes it so (api/asgi/single_write.py)."""
        headers = self.all_headers()
        if WHOLE_RESPONSE in scope.get("extensions", ()):
            await send({"type": WHOLE_RESPONSE, "status": self.status, "headers": headers, "body": self.body})
            return
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def submit_response(body: bytes, headers: Sequence[Header], *, is_final: bool) -> HttpResponse:
    """Answer a submit: 200 where the caller waited until all is final, else 202 and when to ask."""
    return HttpResponse(200, body, headers) if is_final else HttpResponse(202, body, (*headers, RETRY_AFTER_HEADER))


def error_response(error: JitneyError, path: str, headers: Sequence[Header] = (), **more: Any) -> HttpResponse:
    """Turn an error into an answer: problem+json, or whatever the clients of a prefix expect (`_BODIES`).

    `more`: fields beside those of the error.
    """
    details = {**error.details, **more}
    retry_after_s = details.pop("retry_after_s", None)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers = (*headers, (b"www-authenticate", b'Bearer realm="jitney"'))
    if retry_after_s is not None:
        headers = (*headers, (b"retry-after", b"%d" % math.ceil(retry_after_s)))
    write = next(
        (write for prefix, write in _ERROR_FORMATS if path == prefix or path.startswith(f"{prefix}/")), _problem_json
    )
    return write(error, details, headers)


def _problem_json(
    error: JitneyError, details: Mapping[str, Any], headers: Sequence[Header], **first: Any
) -> HttpResponse:
    body = {
        **first,
        "type": f"urn:jitney:error:{error.code}",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "code": error.code,
        "detail": error.message,
        **details,
    }
    return HttpResponse(error.status, orjson.dumps(body), headers, b"application/problem+json")


def _predict_error(error: JitneyError, details: Mapping[str, Any], headers: Sequence[Header]) -> HttpResponse:
    """Say `"success": false` too, as the tutorial's contract has it."""
    return _problem_json(error, details, headers, success=False)


def _openai_error(error: JitneyError, details: Mapping[str, Any], headers: Sequence[Header]) -> HttpResponse:
    """Write OpenAI's body; and tell its clients, who try again at some statuses, where that is no use."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    fields = {"message": error.message, "type": kind, "param": None, "code": error.code, **details}
    again = b"true" if isinstance(error, RetryLater) else b"false"
    return HttpResponse(error.status, orjson.dumps({"error": fields}), (*headers, (b"x-should-retry", again)))


# The form of an error follows the path's prefix.
_ERROR_FORMATS: Final = (("/predict", _predict_error), ("/v1/files", _openai_error), ("/v1/batches", _openai_error))


def with_headers(send: Send, headers: Sequence[Header]) -> Send:
    """Give a `send` that puts these headers into an answer of whatever door."""

    async def with_them(message: MutableMapping[str, Any]) -> None:
        if message["type"] in ("http.response.start", WHOLE_RESPONSE):
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return with_them


async def catch_errors(answer: Awaitable[HttpResponse], path: str) -> HttpResponse:
    """Await an answer; whatever is raised becomes one."""
    try:
        return await answer
    except JitneyError as error:
        return error_response(error, path)
    except Exception:
        log.exception("a fault while answering %s", path)
        return error_response(JitneyError("internal_error", "a fault of ours; it is in the gateway's log"), path)
