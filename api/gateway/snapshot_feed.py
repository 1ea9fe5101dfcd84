"""Reads a snapshot of the whole queue at most once a second, once for all listeners of a gateway."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

INTERVAL_S: Final = 1.0  # from one snapshot to the next
COST_FACTOR: Final = 10  # the same, in multiples of the time that the last one took


class SnapshotFeed:
    """The latest snapshot. The first listener that asks after it is due has it read; without listeners nothing is."""

    def __init__(self, read: Callable[[], Awaitable[bytes]]) -> None:
        self._read, self._lock = read, asyncio.Lock()
        self._latest, self._due_at = b"", 0.0  # on the monotonic clock

    async def read_latest(self) -> bytes:
        """Return the snapshot; raises StoreUnavailable."""
        async with self._lock:
            began = time.monotonic()
            if began >= self._due_at:
                self._latest = await self._read()
                took_s = time.monotonic() - began
                self._due_at = began + max(INTERVAL_S, COST_FACTOR * took_s)
            return self._latest

    def due_in_s(self) -> float:
        """Return the seconds until the next snapshot may be read."""
        return max(0.0, self._due_at - time.monotonic())
