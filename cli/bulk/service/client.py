"""The service as a run speaks to it: one pool of connections, JSON in and out. Knows no lines and no files."""

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpcore2
import orjson

from cli.bulk.errors import CannotRun

CONNECTIONS: Final = 64
WAIT_S: Final = 55  # a gateway waits for 58 s at most (JITNEY_MAX_WAIT_S)
RESPONSE_TIMEOUT_S: Final = WAIT_S + 30.0
API_KEY_VARIABLE: Final = "JITNEY_API_KEY"
CONNECTION_ERRORS: Final = (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, OSError)


class HttpResponse(NamedTuple):
    """What came back; `body` is {} where it is no JSON object. `retry_after_s`: None where the answer names none."""

    status: int
    body: Mapping[str, Any]
    retry_after_s: float | None

    @property
    def words(self) -> str:
        """What it says, for people."""
        return str(self.body.get("detail") or f"the service answers {self.status}")


class ServiceClient:
    """Use it in an `async with`."""

    def __init__(self, url: str) -> None:
        """`url`: http:// or https://, with a path where the service has one. Raises CannotRun."""
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise CannotRun(f"--url {url}: give it as http://HOST:PORT")
        key = os.environ.get(API_KEY_VARIABLE, "")
        self._headers = [("Authorization", f"Bearer {key}")] if key else []
        self._pool = httpcore2.AsyncConnectionPool(max_connections=CONNECTIONS, keepalive_expiry=3)

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Send a request; raises one of UNREACHED."""
        sent = [("Host", self.url.partition("://")[2].partition("/")[0]), *self._headers, *(headers or {}).items()]
        if body is not None:
            sent.append(("Content-Length", str(len(body))))
        timeouts = {"connect": 10.0, "write": 60.0, "read": RESPONSE_TIMEOUT_S, "pool": None}
        answer = await self._pool.request(
            method, f"{self.url}{path}", headers=sent, content=body, extensions={"timeout": timeouts}
        )
        try:
            said = orjson.loads(answer.content)
        except ValueError:
            said = {}
        told = {name.lower(): value for name, value in answer.headers}.get(b"retry-after", b"")
        return HttpResponse(
            answer.status, said if isinstance(said, dict) else {}, float(told) if told.isdigit() else None
        )

    async def request_or_fail(self, method: str, path: str) -> HttpResponse:
        """Send a request that tells whether a run makes sense; raises CannotRun where nothing or nobody answers."""
        try:
            answer = await self.ask(method, path)
        except CONNECTION_ERRORS as error:
            reason = f"nothing answers at {self.url} ({error or type(error).__name__})"
            raise CannotRun(f"{reason}; `jitney up` starts a service, --local runs without one") from error
        check_authorized(answer)
        return answer

    async def card(self, model: str | None) -> dict[str, Any]:
        """Give what the service says of the model, or of its only one; raises CannotRun."""
        answer = await self.request_or_fail("GET", "/v1/models")
        listed = answer.body.get("models")
        if answer.status != 200 or not isinstance(listed, list):
            raise CannotRun(f"{self.url}/v1/models answers {answer.status}, not a list of models")
        names = sorted({one["name"] for one in listed})
        if model is None and len(names) != 1:
            raise CannotRun(f"which model? name one with --model; served are: {', '.join(names) or 'none'}")
        named = names[0] if model is None else model
        cards = [one for one in listed if one["name"] == named]
        ready = [one for one in cards if one["status"] == "ready"]
        if not ready:
            why = f"is {cards[-1]['status']}: {cards[-1]['reason']}" if cards else "is not served"
            raise CannotRun(f"model {named} {why}; served are: {', '.join(names) or 'none'}")
        return dict(max(ready, key=lambda one: int(one["version"])))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        await self._pool.aclose()


def check_authorized(answer: HttpResponse) -> None:
    """Raise CannotRun where the service lets us not in."""
    if answer.status in (401, 403):
        raise CannotRun(
            f"{answer.words} ({answer.status}); the environment's {API_KEY_VARIABLE} is sent as the API key"
        )
