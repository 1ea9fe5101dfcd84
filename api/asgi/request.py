"""Reads what a request brings: who sent it, headers, query and the body, within limits of size and time."""

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Final, TypeVar
from urllib.parse import parse_qsl

from api.asgi.gzip_body import ENCODINGS, GzipReceiver
from api.asgi.responses import Receive, Scope
from api.asgi.single_write import WHOLE_RESPONSE
from api.asgi.tenant_budgets import BudgetShare
from jobs.contract.errors import Refused

MAX_CACHED_BYTES: Final = 256  # bytes of a header or a query that is kept once it has been read

Text = TypeVar("Text", str, bytes)
T = TypeVar("T")


def cache_short(entries: int) -> Callable[[Callable[[Text], T]], Callable[[Text], T]]:
    """Keep what a function makes of what callers send: so many entries at most, and only of short texts."""

    def decorate(read: Callable[[Text], T]) -> Callable[[Text], T]:
        kept = lru_cache(entries)(read)

        def of(text: Text) -> T:
            return kept(text) if len(text) <= MAX_CACHED_BYTES else read(text)

        return of

    return decorate


class Request:
    """The parts of an HTTP request that our doors look at."""

    def __init__(self, scope: Scope) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.query_string: bytes = scope["query_string"]
        self._scope = scope
        self._headers: Mapping[bytes, bytes] = dict(scope["headers"])

    def header(self, name: bytes) -> str:
        """Give a header's value, or an empty string."""
        value = self._headers.get(name)
        return value.decode("latin-1") if value else ""

    @property
    def tenant(self) -> str:
        """Give whose request it is, as the doorman found."""
        tenant: str = self._scope["caller"].tenant
        return tenant

    @property
    def evict(self) -> Callable[[], None] | None:
        """Give what ends this request where others need its room; see api/asgi/protocol.py."""
        evict: Callable[[], None] | None = self._scope.get("extensions", {}).get(WHOLE_RESPONSE, {}).get("evict")
        return evict

    @property
    def content_type(self) -> str:
        """Give the media type without its parameters, in lower case."""
        return _media_type(self._headers.get(b"content-type", b""))

    @property
    def content_length(self) -> int:
        """Give the bytes that the body is declared to have; 0 where nothing readable is declared."""
        declared = self._headers.get(b"content-length", b"").lstrip(b"0")
        return int(declared[:20]) if declared.isdigit() else 0  # int() refuses texts of some thousand digits

    def query(self, *allowed: str) -> dict[str, str]:
        """Give the query's fields; raises Refused for one that is not allowed here, or is given twice."""
        return read_query(self.query_string, allowed)

    @property
    def declared_bytes(self) -> int:
        """Give the Content-Length; 0 where there is none. The connection let no other value through."""
        declared = self._headers.get(b"content-length")
        return int(declared) if declared else 0

    async def body(self, receive: Receive, share: BudgetShare, limit_bytes: int) -> bytes:
        """Receive the body; raises Refused where it is too large, QueueFull where too many are held.

        Both count the unpacked body. One that takes too long is the connection's own concern
        (api/asgi/protocol.py): no timer for each request.
        """
        receive = self.unpacking(receive)
        size_bytes = self.declared_bytes
        if size_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        share.expect(size_bytes)
        body = await _receive_all(receive, share, limit_bytes)
        share.keep()
        return body

    def unpacking(self, receive: Receive) -> Receive:
        """Give a `receive` of the body as it was before it was packed; raises Refused for a packing not known here."""
        encoding = self._headers.get(b"content-encoding")
        if not encoding:
            return receive
        name = encoding.decode("latin-1").strip().lower()
        if name in ENCODINGS:
            return GzipReceiver(receive)
        if name != "identity":
            message = f"a body packed by {name[:80]!r} is not unpacked here: send it packed by gzip, or as it is"
            raise Refused("unsupported_media_type", message, allowed=["gzip", "identity"])
        return receive


@cache_short(64)
def _media_type(header: bytes) -> str:
    return header.decode("latin-1").partition(";")[0].strip().lower()


def read_query(text: bytes, allowed: Collection[str]) -> dict[str, str]:
    """Read a query's fields; raises Refused for one that is not allowed here, or is given twice."""
    if not text:
        return {}
    try:
        pairs = parse_qsl(text.decode(), keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise Refused("malformed_request", f"the query can not be read: {error}") from error
    if unknown := [name for name, _ in pairs if name not in allowed]:
        message = f"unknown query field {unknown[0][:80]!r}"
        raise Refused("invalid_request", message, allowed=list(allowed))
    if len(dict(pairs)) < len(pairs):
        raise Refused("invalid_request", "a query field is given twice")
    return dict(pairs)


async def _receive_all(receive: Receive, share: BudgetShare, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("malformed_request", "the caller hung up before the body was complete")
        chunk = message.get("body", b"")
        share.grow(len(chunk))
        if share.size > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks) if len(chunks) > 1 else chunk


def _too_large(limit_bytes: int) -> Refused:
    return Refused("body_too_large", f"a request body may have {limit_bytes} bytes", limit_bytes=limit_bytes)
