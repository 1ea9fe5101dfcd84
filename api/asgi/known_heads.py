"""Keeps parsed heads, so that a request whose head equals an earlier one byte for byte is not parsed again.

Callers that submit jobs send the same head many times, and parsing it costs more than any other step of a small
request. Only heads of POSTs with a Content-Length are kept: others name jobs, and seldom repeat.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

MAX_KEPT: Final = 64
MAX_HEAD_BYTES: Final = 2048
# Fields whose value differs from one request to the next, and `Expect`, which needs an answer of its own.
_NOT_KEPT: Final = frozenset({b"idempotency-key", b"traceparent", b"x-request-id", b"expect"})


class KnownHead(NamedTuple):
    """A parsed head: its URL, the ASGI scope without the fields of the connection, and the Content-Length.

    `scope["head_memo"]` is one dict for all requests with this head. Later steps keep there what follows from the head.
    """

    url: bytes
    scope: dict[str, Any]
    body_bytes: int


class KnownHeads:
    """Parsed heads by their bytes, for all connections of a process."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}

    def find(self, head: bytes) -> KnownHead | None:
        """Return what the parser found in this head; None if it is not known."""
        return self._known.get(head)

    def prepare(self, url: bytes, scope: Mapping[str, Any], body_bytes: int) -> KnownHead | None:
        """Return what to keep of a parsed head; None if it must not or need not be kept."""
        if scope["method"] != "POST" or not _NOT_KEPT.isdisjoint(scope["header_map"]):
            return None
        return KnownHead(url, {**scope, "head_memo": {}}, body_bytes)

    def keep(self, head: bytes, known: KnownHead) -> None:
        """Keep a head. A full table is emptied."""
        if len(head) > MAX_HEAD_BYTES:
            return
        if len(self._known) >= MAX_KEPT:
            self._known.clear()
        self._known[head] = known
