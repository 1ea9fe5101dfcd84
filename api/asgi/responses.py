"""What goes out over ASGI: JSON, and errors in the form that a prefix has. Here alone an error becomes an answer."""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson

from api.asgi.single_write import ANSWER
from jobs.contract.errors import JitneyError, NotNow

log = logging.getLogger("jitney.api")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

RETRY_AFTER: Header = (b"retry-after", b"1")  # until a job is looked at again
# No answer is a page, a script or a picture of another site's page, whatever a browser makes of its bytes.
ALWAYS: Final[Sequence[Header]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Answer(NamedTuple):
    """A whole response."""

    status: int
    body: bytes
    headers: Sequence[Header] = ()
    content_type: bytes = b"application/json"

    def all_headers(self) -> list[Header]:
        """List its headers, those that every answer has among them."""
        length = b"%d" % len(self.body)
        return [(b"content-type", self.content_type), (b"content-length", length), *ALWAYS, *self.headers]

    async def send(self, scope: Scope, send: Send) -> None:
        """Send it over ASGI; as one message where the server takes it so (api/asgi/single_write.py)."""
        headers = self.all_headers()
        if ANSWER in scope.get("extensions", ()):
            await send({"type": ANSWER, "status": self.status, "headers": headers, "body": self.body})
            return
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def accepted(body: bytes, headers: Sequence[Header], *, is_final: bool) -> Answer:
    """Answer a submit: 200 where the caller waited until all is final, else 202 and when to ask."""
    return Answer(200, body, headers) if is_final else Answer(202, body, (*headers, RETRY_AFTER))


def problem(error: JitneyError, path: str, headers: Sequence[Header] = (), **more: Any) -> Answer:
    """Turn an error into an answer: problem+json, or whatever the clients of a prefix expect (`_BODIES`).

    `more`: fields beside those of the error.
    """
    details = {**error.details, **more}
    retry_after_s = details.pop("retry_after_s", None)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers = (*headers, (b"www-authenticate", b'Bearer realm="jitney"'))
    if retry_after_s is not None:
        headers = (*headers, (b"retry-after", b"%d" % math.ceil(retry_after_s)))
    write = next((write for prefix, write in _BODIES if path == prefix or path.startswith(f"{prefix}/")), _rfc_9457)
    return write(error, details, headers)


def _rfc_9457(error: JitneyError, details: Mapping[str, Any], headers: Sequence[Header], **first: Any) -> Answer:
    body = {
        **first,
        "type": f"urn:jitney:error:{error.code}",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "code": error.code,
        "detail": error.message,
        **details,
    }
    return Answer(error.status, orjson.dumps(body), headers, b"application/problem+json")


def _classic(error: JitneyError, details: Mapping[str, Any], headers: Sequence[Header]) -> Answer:
    """Say `"success": false` too, as the tutorial's contract has it."""
    return _rfc_9457(error, details, headers, success=False)


def _openai(error: JitneyError, details: Mapping[str, Any], headers: Sequence[Header]) -> Answer:
    """Write OpenAI's body; and tell its clients, who try again at some statuses, where that is no use."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    told = {"message": error.message, "type": kind, "param": None, "code": error.code, **details}
    again = b"true" if isinstance(error, NotNow) else b"false"
    return Answer(error.status, orjson.dumps({"error": told}), (*headers, (b"x-should-retry", again)))


# The form of an error follows the path's prefix.
_BODIES: Final = (("/predict", _classic), ("/v1/files", _openai), ("/v1/batches", _openai))


def adding(send: Send, headers: Sequence[Header]) -> Send:
    """Give a `send` that puts these headers into an answer of whatever door."""

    async def with_them(message: MutableMapping[str, Any]) -> None:
        if message["type"] in ("http.response.start", ANSWER):
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return with_them


async def guarded(answer: Awaitable[Answer], path: str) -> Answer:
    """Await an answer; whatever is raised becomes one."""
    try:
        return await answer
    except JitneyError as error:
        return problem(error, path)
    except Exception:
        log.exception("a fault while answering %s", path)
        return problem(JitneyError("internal_error", "a fault of ours; it is in the gateway's log"), path)
