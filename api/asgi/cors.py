"""Lets pages of other origins call the gateway (CORS): the headers of responses, and the responses to preflights.

No response allows credentials: a page sends an API key or a read token itself, and the gateway has no cookies.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from api.asgi.responses import SECURITY_HEADERS, App, Header, Receive, Scope, Send, error_response, with_headers
from jobs.config.settings_base import split_list
from jobs.contract.errors import Refused

ANY: Final = "*"
ALLOWED_METHODS: Final = b"GET, HEAD, POST, PUT, DELETE"
# `*` allows all request headers except Authorization. Browsers without the wildcard read the names.
ALLOWED_HEADERS: Final = (
    b"Authorization, X-API-Key, Api-Key, Content-Type, Content-Encoding, Idempotency-Key, Prefer, Last-Event-ID, "
    b"Inference-Header-Content-Length, Accept-Encoding, X-Request-ID, traceparent, *"
)
# Response headers that a page may read, beside the few that it always may.
EXPOSED_HEADERS: Final = (
    "Location",
    "Retry-After",
    "Preference-Applied",
    "Idempotent-Replayed",
    "RateLimit-Policy",
    "RateLimit",
    "WWW-Authenticate",
    "X-Should-Retry",
    "Content-Disposition",
    "Jitney-Datatype",
    "Jitney-Shape",
    "Inference-Header-Content-Length",
    "Content-Encoding",
    "X-Request-ID",
    "Server-Timing",
)
MAX_AGE_S: Final = 7200  # for which a browser keeps the response to a preflight; Chromium keeps none longer
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_VARY: Final = (b"vary", b"Origin")  # a cache must not give the response for one origin to another
_EXPOSE: Final = (b"access-control-expose-headers", ", ".join(EXPOSED_HEADERS).encode())
_PREFLIGHT: Final[Sequence[Header]] = (
    *SECURITY_HEADERS,
    (b"access-control-allow-methods", ALLOWED_METHODS),
    (b"access-control-allow-headers", ALLOWED_HEADERS),
    (b"access-control-max-age", b"%d" % MAX_AGE_S),
)


def read_origins(text: str) -> list[str]:
    """Parse JITNEY_CORS_ORIGINS: `*` or origins, as a browser writes them in `Origin`. Raises ValueError."""
    origins = split_list(text)
    for origin in origins:
        match = _ORIGIN.fullmatch(origin)
        if origin != ANY and (match is None or (match[3] or "none") == _DEFAULT_PORTS.get(match[1])):
            raise ValueError(
                f"{origin[:80]!r} is not an origin: write `*`, or origins such as https://app.example or "
                "http://localhost:3000, in lower case, without a path and without the scheme's default port"
            )
    return origins


class CorsPolicy:
    """The origins whose pages may call, perhaps none. `named`: those listed by name; `allows_any`: `*` is listed."""

    def __init__(self, origins: Sequence[str]) -> None:
        self.origins, self.allows_any = origins, ANY in origins
        self.named = frozenset(origin.encode() for origin in origins if origin != ANY)
        self._by_origin = {name: ((b"access-control-allow-origin", name), _EXPOSE, _VARY) for name in self.named}
        self._others: Sequence[Header] = (_VARY,) if origins else ()
        if self.allows_any:
            self._by_origin.clear()
            self._others = ((b"access-control-allow-origin", ANY.encode()), _EXPOSE)

    def headers(self, received: Iterable[Header] | None) -> Sequence[Header]:
        """Return the headers that the response to a request with these headers gets; None: none has arrived."""
        for name, value in received or ():
            if name == b"origin":
                return self._by_origin.get(value, self._others)
        return self._others


class CorsMiddleware:
    """ASGI wrapper: answers preflights, and adds the headers of a policy to all responses of an app."""

    def __init__(self, app: App, policy: CorsPolicy) -> None:
        self._app, self._policy = app, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request. A preflight needs no API key, because browsers send none with it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        send = with_headers(send, self._policy.headers(scope["headers"]))
        if scope["method"] == "OPTIONS":
            fields = dict(scope["headers"])
            if b"origin" in fields and b"access-control-request-method" in fields:
                return await self._answer_preflight(scope, fields[b"origin"], send)
        return await self._app(scope, receive, send)

    async def _answer_preflight(self, scope: Scope, origin: bytes, send: Send) -> None:
        """Answer whether a page of this origin may send a request: 204, or 403 if the origin is not listed."""
        if not self._policy.allows_any and origin not in self._policy.named:
            message = f"JITNEY_CORS_ORIGINS does not list the origin {origin.decode('latin-1')[:80]!r}"
            await error_response(Refused("forbidden", message), scope["path"]).send(scope, send)
        else:
            await send({"type": "http.response.start", "status": 204, "headers": [*_PREFLIGHT]})
            await send({"type": "http.response.body", "body": b""})
