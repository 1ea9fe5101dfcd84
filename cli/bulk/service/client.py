"""HTTP client of a Jitney service: a connection pool, JSON requests and responses."""

import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

import httpcore2
import orjson

from cli.bulk.errors import CannotRun

CONNECTIONS: Final = 64
WAIT_S: Final = 55  # less than the maximum of a gateway, 58 s (JITNEY_MAX_WAIT_S)
RESPONSE_TIMEOUT_S: Final = WAIT_S + 30.0
API_KEY_VARIABLE: Final = "JITNEY_API_KEY"
CONNECTION_ERRORS: Final = (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, OSError)


class HttpResponse(NamedTuple):
    """A response. `body` is {} if it is not a JSON object; `retry_after_s` is None without Retry-After."""

    status: int
    body: Mapping[str, Any]
    retry_after_s: float | None

    @property
    def message(self) -> str:
        """The detail of a problem, or the status."""
        return str(self.body.get("detail") or f"the service returned {self.status}")


class ServiceClient:
    """The client; use it in an `async with`."""

    def __init__(self, url: str) -> None:
        """Create a client of `url`, http:// or https://, which may have a path. Raises CannotRun."""
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise CannotRun(f"--url {url}: must be http://HOST:PORT or https://HOST:PORT")
        key = os.environ.get(API_KEY_VARIABLE, "")
        self._headers = [("Authorization", f"Bearer {key}")] if key else []
        self._pool = httpcore2.AsyncConnectionPool(max_connections=CONNECTIONS, keepalive_expiry=3)

    async def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Send a request and read the response. Raises one of CONNECTION_ERRORS."""
        fields = [("Host", self.url.partition("://")[2].partition("/")[0]), *self._headers, *(headers or {}).items()]
        if body is not None:
            fields.append(("Content-Length", str(len(body))))
        timeouts = {"timeout": {"connect": 10.0, "write": 60.0, "read": RESPONSE_TIMEOUT_S, "pool": None}}
        url = f"{self.url}{path}"
        response = await self._pool.request(method, url, headers=fields, content=body, extensions=timeouts)
        try:
            content = orjson.loads(response.content)
        except ValueError:
            content = {}
        retry_after = {name.lower(): value for name, value in response.headers}.get(b"retry-after", b"")
        retry_after_s = float(retry_after) if retry_after.isdigit() else None
        return HttpResponse(response.status, content if isinstance(content, dict) else {}, retry_after_s)

    async def request_or_fail(self, method: str, path: str) -> HttpResponse:
        """Send a request without retries. Raises CannotRun if the service is unreachable or denies access."""
        try:
            response = await self.request(method, path)
        except CONNECTION_ERRORS as error:
            reason = f"cannot reach the service at {self.url}: {error or type(error).__name__}"
            raise CannotRun(f"{reason}; `jitney up` starts one, --local runs without one") from error
        check_authorized(response)
        return response

    async def model_card(self, model: str | None) -> dict[str, Any]:
        """Return the service's description of the model, or of its only one. Raises CannotRun."""
        response = await self.request_or_fail("GET", "/v1/models")
        listed = response.body.get("models")
        if response.status != 200 or not isinstance(listed, list):
            raise CannotRun(f"{self.url}/v1/models returned {response.status}, not a list of models")
        names = sorted({card["name"] for card in listed})
        served = f"the service has: {', '.join(names) or 'none'}"
        if model is None and len(names) != 1:
            raise CannotRun(f"name a model with --model; {served}")
        name = names[0] if model is None else model
        cards = [card for card in listed if card["name"] == name]
        ready = [card for card in cards if card["status"] == "ready"]
        if not ready:
            reason = f"is {cards[-1]['status']}: {cards[-1]['reason']}" if cards else "is not served"
            raise CannotRun(f"model {name} {reason}; {served}")
        return dict(max(ready, key=lambda card: int(card["version"])))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()


def check_authorized(response: HttpResponse) -> None:
    """Raise CannotRun if the service denied access."""
    if response.status in (401, 403):
        raise CannotRun(f"{response.message} ({response.status}); the API key is read from {API_KEY_VARIABLE}")
