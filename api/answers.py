"""What goes out over ASGI: JSON, and errors as RFC 9457 problem+json. Here alone an error becomes an answer."""

import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson

from jobs.errors import JitneyError

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

    async def send(self, send: Send) -> None:
        """Send it over ASGI."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.all_headers()})
        await send({"type": "http.response.body", "body": self.body})


def accepted(body: bytes, headers: Sequence[Header], *, is_final: bool) -> Answer:
    """Answer a submit: 200 where the caller waited until all is final, else 202 and when to ask."""
    return Answer(200, body, headers) if is_final else Answer(202, body, (*headers, RETRY_AFTER))


def problem(error: JitneyError, path: str, headers: Sequence[Header] = (), **more: Any) -> Answer:
    """Turn an error into problem+json; under /predict it also says `"success": false`, as that contract has it.

    `more`: fields beside those of the error.
    """
    body: dict[str, Any] = {
        "type": f"urn:jitney:error:{error.code}",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "code": error.code,
        "detail": error.message,
        **error.details,
        **more,
    }
    if path == "/predict":
        body = {"success": False, **body}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers = (*headers, (b"www-authenticate", b'Bearer realm="jitney"'))
    retry_after_s = body.pop("retry_after_s", None)
    if retry_after_s is not None:
        headers = (*headers, (b"retry-after", b"%d" % math.ceil(retry_after_s)))
    return Answer(error.status, orjson.dumps(body), headers, b"application/problem+json")


def adding(send: Send, headers: Sequence[Header]) -> Send:
    """Give a `send` that puts these headers into an answer of whatever door."""

    async def with_them(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
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
