"""Reads a request: its tenant, headers, query and body, within limits of size; caches parsed short headers."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote

import httptools

from api.asgi.gzip_body import ENCODINGS, GzipReceiver
from api.asgi.responses import Receive, Scope
from api.asgi.single_write import WHOLE_RESPONSE, gather_body, take_body
from api.asgi.tenant_budgets import BudgetShare
from jobs.contract.errors import Refused

MAX_GATHERED_BYTES: Final = 256 << 10  # of a body that is taken whole, so that its parts do not wake the app
MAX_CACHED_BYTES: Final = 256  # longest header or query whose parsed value is cached, in bytes

Text = TypeVar("Text", str, bytes)
T = TypeVar("T")


class _Cache(dict[Any, Any]):
    """Values by text. A full cache is emptied."""

    def __init__(self, read: Callable[[Any], Any], entries: int) -> None:
        super().__init__()
        self._read, self._entries = read, entries

    def __missing__(self, text: str | bytes) -> Any:
        value = self._read(text)
        if len(text) <= MAX_CACHED_BYTES:
            if len(self) >= self._entries:
                self.clear()
            self[text] = value
        return value


def cache_short(entries: int) -> Callable[[Callable[[Text], T]], Callable[[Text], T]]:
    """Cache a parser of headers or queries: at most `entries` values, only of short texts.

    A hit runs no Python code, unlike a function around `lru_cache` that checks the length.
    """
    return lambda read: _Cache(read, entries).__getitem__


class Request:
    """The parts of an HTTP request that the routes use."""

    def __init__(self, scope: Scope) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.query_string: bytes = scope["query_string"]
        self._scope = scope
        self.given_id: str = scope["request_id"].decode() if scope.get("request_id") else ""  # X-Request-ID, if valid
        # The protocol has made this map of the headers already; a server of tests has not.
        self.headers: Mapping[bytes, bytes] = scope.get("header_map") or dict(scope["headers"])
        self.memo: dict[str, Any] | None = scope.get("head_memo")  # see api/asgi/known_heads.py
        extensions = scope.get("extensions")
        connection = extensions.get(WHOLE_RESPONSE) if extensions else None
        # Ends this request to free memory (api/asgi/protocol.py); None if the server cannot.
        self.evict: Callable[[], None] | None = connection["evict"] if connection else None

    def identify(self, job_id: str) -> None:
        """Name this request by the job that it submitted, if its caller has not named it."""
        if not self._scope.get("request_id"):
            self._scope["request_id"] = job_id.encode()

    def header(self, name: bytes) -> str:
        """Return the value of a header, or an empty string."""
        value = self.headers.get(name)
        return value.decode("latin-1") if value else ""

    @property
    def caller(self) -> Any:
        """Return the caller that access control found."""
        return self._scope["caller"]

    @property
    def tenant(self) -> str:
        """Return the tenant that access control found."""
        tenant: str = self._scope["caller"].tenant
        return tenant

    @property
    def content_type(self) -> str:
        """Return the media type without parameters, in lower case."""
        return _media_type(self.headers.get(b"content-type", b""))

    def query(self, *allowed: str) -> dict[str, str]:
        """Return the fields of the query; raises Refused for an unknown or repeated field."""
        return read_query(self.query_string, allowed)

    def take_query_field(self, name: bytes) -> list[bytes]:
        """Remove a field from the query, for all later code; return its values, still percent-encoded."""
        prefix, fields = name + b"=", self.query_string.split(b"&")
        self.query_string = self._scope["query_string"] = b"&".join(
            field for field in fields if not field.startswith(prefix)
        )
        return [field.removeprefix(prefix) for field in fields if field.startswith(prefix)]

    @property
    def declared_bytes(self) -> int:
        """Return the Content-Length, or 0 without one. The protocol has refused invalid values."""
        declared = self.headers.get(b"content-length")
        return int(declared) if declared else 0

    async def body(self, receive: Receive, share: BudgetShare, limit_bytes: int) -> bytes:
        """Return the decompressed body; raises Refused if it is too large, QueueFull if the budget is used up.

        The connection enforces the timeout (api/asgi/protocol.py).
        """
        decompressed = self.decompress(receive) if b"content-encoding" in self.headers else receive
        body = take_body(receive) if decompressed is receive else None
        if body is not None:  # it has arrived, so that no message is needed
            if len(body) > limit_bytes:
                raise _too_large(limit_bytes)
            share.keep()
            share.grow(len(body))
            return body
        size_bytes = self.declared_bytes
        if size_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        share.expect(size_bytes)
        if 0 < size_bytes <= MAX_GATHERED_BYTES and decompressed is receive:
            body = await gather_body(receive, share.grow)
            if body is not None:
                share.keep()
                return body
            share.release()  # what has arrived is received again
        body = await _receive_all(decompressed, share, limit_bytes)
        share.keep()
        return body

    def decompress(self, receive: Receive) -> Receive:
        """Return a `receive` that yields the decompressed body; raises Refused for an unknown Content-Encoding."""
        encoding = self.headers.get(b"content-encoding")
        if not encoding:
            return receive
        name = encoding.decode("latin-1").strip().lower()
        if name in ENCODINGS:
            return GzipReceiver(receive, ENCODINGS[name])
        if name != "identity":
            message = f"Content-Encoding {name[:80]!r} is not supported: send gzip, deflate or identity"
            raise Refused("unsupported_media_type", message, allowed=["gzip", "deflate", "identity"])
        return receive


@cache_short(256)
def parse_url(url: bytes) -> tuple[str, bytes, bytes]:
    """Return the decoded path, the raw path and the query of a request's URL."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.path, parsed.query or b""


@cache_short(64)
def _media_type(header: bytes) -> str:
    return header.decode("latin-1").partition(";")[0].strip().lower()


def read_query(text: bytes, allowed: Collection[str]) -> dict[str, str]:
    """Parse a query string; raises Refused if it is malformed, or a field is unknown or repeated."""
    if not text:
        return {}
    try:
        pairs = parse_qsl(text.decode(), keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise Refused("malformed_request", f"the query is malformed: {error}") from error
    if unknown := [name for name, _ in pairs if name not in allowed]:
        raise Refused("invalid_request", f"unknown query field {unknown[0][:80]!r}", allowed=list(allowed))
    if len(dict(pairs)) < len(pairs):
        raise Refused("invalid_request", "a query field appears twice")
    return dict(pairs)


async def _receive_all(receive: Receive, share: BudgetShare, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("malformed_request", "the caller disconnected before the body was complete")
        chunk = message.get("body", b"")
        share.grow(len(chunk))
        if share.size > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks) if len(chunks) > 1 else chunk


def _too_large(limit_bytes: int) -> Refused:
    message = f"the request body is larger than the limit of {limit_bytes} bytes"
    return Refused("body_too_large", message, limit_bytes=limit_bytes)
