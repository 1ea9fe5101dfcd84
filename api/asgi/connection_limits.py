"""Tracks a gateway's connections: closes the longest idle when full, and the largest tenant's above a byte limit.

A full table makes room for a newcomer by closing the connection that has waited longest for a request. The bytes are
those of requests that are not read yet and of answers that callers have not taken yet. Above the limit connections of
the tenant that holds most are cut off, those first whose caller has taken nothing for longest. Connections whose tenant
is not known count together as one tenant's.
"""

from collections import OrderedDict
from typing import Final, NamedTuple, Protocol

SHED_TO: Final = 7 / 8  # of the limit: cutting off a few at a time would have all of them sorted again and again


class ConnectionLimits(NamedTuple):
    """What a connection may take: bytes of a head; seconds for it, for a body, and without reading; how many."""

    head_bytes: int
    header_timeout_s: float
    body_timeout_s: float
    send_timeout_s: float
    connections: int
    upload_bytes_s: int = 32 << 10  # what an upload must bring, beside `body_timeout_s`
    keepalive_timeout_s: float = 75  # without a next request
    buffers_bytes: int = 256 << 20  # in memory for all connections: requests not read yet, answers not taken yet


class TrackedConnection(Protocol):
    """What the table asks of a connection."""

    last_progress_at: float  # when its caller last took bytes of an answer, or none were waiting; in seconds

    @property
    def tenant(self) -> str:
        """Whose last request it carried; empty: not known."""
        ...

    def buffered_bytes(self) -> int:
        """Count what it keeps in memory now."""
        ...

    def close_idle(self) -> None:
        """Close it; no request is under way."""
        ...

    def reset_connection(self) -> None:
        """Close it at once, whatever is under way."""
        ...


class ConnectionTable:
    """See above."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._idle: OrderedDict[TrackedConnection, None] = OrderedDict()  # longest first
        self._buffered: dict[TrackedConnection, int] = {}
        self.buffered_bytes = 0

    def mark_idle(self, connection: TrackedConnection) -> None:
        """Note that a connection waits for a request from now on."""
        if connection in self._idle:
            self._idle.move_to_end(connection)
        else:
            self._idle[connection] = None

    def mark_closing(self, connection: TrackedConnection) -> None:
        """Note that a connection is about to be closed: it is the first to go where room is needed."""
        self._idle[connection] = None
        self._idle.move_to_end(connection, last=False)

    def mark_busy(self, connection: TrackedConnection) -> None:
        """Note that a connection's request is under way."""
        self._idle.pop(connection, None)

    def forget(self, connection: TrackedConnection) -> None:
        """Note that a connection is gone."""
        self._idle.pop(connection, None)
        self.buffered_bytes -= self._buffered.pop(connection, 0)

    def evict_idle(self, newcomer: TrackedConnection) -> bool:
        """Close the connection that has waited longest for a request; False where no other one waits."""
        self.mark_busy(newcomer)
        if not self._idle:
            return False
        oldest, _ = self._idle.popitem(last=False)
        oldest.close_idle()
        self.mark_idle(newcomer)
        return True

    def count(self, connection: TrackedConnection, size_bytes: int) -> None:
        """Note how many bytes a connection keeps in memory; above the limit some are cut off."""
        before = self._buffered.get(connection, 0)
        if size_bytes == before:
            return
        if size_bytes:
            self._buffered[connection] = size_bytes
        else:
            del self._buffered[connection]
        self.buffered_bytes += size_bytes - before
        if self.buffered_bytes > self._limit_bytes and size_bytes > before:
            self._reset_largest()

    def _reset_largest(self) -> None:
        for connection in list(self._buffered):  # the counts may be old
            self._buffered[connection] = connection.buffered_bytes()
        self.buffered_bytes = sum(self._buffered.values())
        if self.buffered_bytes <= self._limit_bytes:
            return
        by_tenant: dict[str, list[TrackedConnection]] = {}
        for connection in sorted(
            self._buffered, key=lambda one: (one.last_progress_at, -self._buffered[one]), reverse=True
        ):
            by_tenant.setdefault(connection.tenant, []).append(connection)
        sums = {tenant: sum(self._buffered[one] for one in own) for tenant, own in by_tenant.items()}
        while self.buffered_bytes > self._limit_bytes * SHED_TO and len(self._buffered) > 1:
            most = max(sums, key=lambda tenant: sums[tenant])
            victim = by_tenant[most].pop()
            sums[most] -= self._buffered[victim]
            self.forget(victim)
            victim.reset_connection()
