"""Tracks a gateway's connections: closes the longest idle when full, and the largest tenant's above a byte limit.

A full table closes the connection that has been idle longest to accept a new one. The byte limit covers unread requests
and unsent responses. Above it, connections of the tenant that holds most bytes are reset, starting with the caller that
has read nothing for longest. Connections whose tenant is not known yet count together as one tenant.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

SWEEPS_PER_LIMIT: Final = 10  # checks of a timeout within its time
SHED_TO: Final = 7 / 8  # of the limit: resetting to exactly the limit would sort all connections again and again


class ConnectionLimits(NamedTuple):
    """Limits of connections: sizes in bytes, timeouts in seconds, and their number."""

    head_bytes: int = 64 << 10
    header_timeout_s: float = 10
    body_timeout_s: float = 30
    send_timeout_s: float = 30
    connections: int = 10_000
    upload_bytes_s: int = 32 << 10  # minimum rate that extends `body_timeout_s` for uploads
    keepalive_timeout_s: float = 75  # for the next request
    buffers_bytes: int = 256 << 20  # of all connections: unread requests and unsent responses


class TrackedConnection(Protocol):
    """The interface of a connection in a `ConnectionTable`."""

    last_progress_at: float  # when its caller last read response bytes, or none were unsent; in seconds

    @property
    def tenant(self) -> str:
        """The tenant of its last request; empty if not known."""
        ...

    def buffered_bytes(self) -> int:
        """Return the bytes that it holds in memory."""
        ...

    def close_idle(self) -> None:
        """Close it while no request is in progress."""
        ...

    def reset_connection(self) -> None:
        """Close it at once, even during a request."""
        ...


class ConnectionTable:
    """Tracks idle connections and buffered bytes, and closes connections above the limits."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._idle: OrderedDict[TrackedConnection, None] = OrderedDict()  # longest idle first
        self._buffered: dict[TrackedConnection, int] = {}
        self.buffered_bytes = 0

    def mark_idle(self, connection: TrackedConnection) -> None:
        """Record that a connection waits for its next request."""
        if connection in self._idle:
            self._idle.move_to_end(connection)
        else:
            self._idle[connection] = None

    def mark_closing(self, connection: TrackedConnection) -> None:
        """Record that a connection is closing, so that it is evicted first."""
        self._idle[connection] = None
        self._idle.move_to_end(connection, last=False)

    def mark_busy(self, connection: TrackedConnection) -> None:
        """Record that a request of a connection is in progress."""
        self._idle.pop(connection, None)

    def forget(self, connection: TrackedConnection) -> None:
        """Remove a closed connection."""
        self._idle.pop(connection, None)
        self.buffered_bytes -= self._buffered.pop(connection, 0)

    def evict_idle(self, newcomer: TrackedConnection) -> bool:
        """Close the longest idle connection; return False if only the newcomer is idle."""
        self.mark_busy(newcomer)
        if not self._idle:
            return False
        oldest, _ = self._idle.popitem(last=False)
        oldest.close_idle()
        self.mark_idle(newcomer)
        return True

    def count(self, connection: TrackedConnection, size_bytes: int) -> None:
        """Update the bytes that a connection holds in memory; above the limit, reset connections."""
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
        for connection in list(self._buffered):  # the counts may be stale
            self._buffered[connection] = connection.buffered_bytes()
        self.buffered_bytes = sum(self._buffered.values())
        if self.buffered_bytes <= self._limit_bytes:
            return
        by_tenant: dict[str, list[TrackedConnection]] = {}
        order = sorted(self._buffered, key=lambda each: (each.last_progress_at, -self._buffered[each]), reverse=True)
        for connection in order:
            by_tenant.setdefault(connection.tenant, []).append(connection)
        sums = {tenant: sum(map(self._buffered.__getitem__, own)) for tenant, own in by_tenant.items()}
        while self.buffered_bytes > self._limit_bytes * SHED_TO and len(self._buffered) > 1:
            largest = max(sums, key=lambda tenant: sums[tenant])
            victim = by_tenant[largest].pop()
            sums[largest] -= self._buffered[victim]
            self.forget(victim)
            victim.reset_connection()


async def sweep_connections(connections: Iterable[Any], limits: ConnectionLimits) -> None:
    """Check the timeouts of all connections periodically until cancelled."""
    loop = asyncio.get_running_loop()
    timeouts = limits.header_timeout_s, limits.body_timeout_s, limits.send_timeout_s, limits.keepalive_timeout_s
    while True:
        await asyncio.sleep(min(timeouts) / SWEEPS_PER_LIMIT)
        now = loop.time()
        for connection in list(connections):
            connection.check(now)
