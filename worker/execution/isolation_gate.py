"""Who may claim: every model's intake at any time, or one that tries suspects, and then it has the worker to itself.

A worker that tries suspects holds nobody else: should it die, no other job is delayed by that, and none is suspected.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from worker.execution.pending_items import PendingItems


class IsolationGate:
    """Open while nobody tries suspects."""

    def __init__(self) -> None:
        self._trial = asyncio.Lock()
        self._open, self._nobody_inside = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._inside = 0

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    async def enter(self) -> None:
        """Begin to claim; waits while suspects are tried."""
        await self._open.wait()
        self._inside += 1

    def leave(self) -> None:
        """What was claimed is aboard."""
        self._inside -= 1
        if not self._inside:
            self._nobody_inside.set()

    @asynccontextmanager
    async def exclusive(self, pending_items: Iterable[PendingItems]) -> AsyncIterator[None]:
        """Have the worker to oneself: nobody else claims, and nobody is aboard."""
        async with self._trial:
            self._open.clear()
            try:
                while self._inside:
                    self._nobody_inside.clear()
                    await self._nobody_inside.wait()
                for pending in [*pending_items]:  # those that come meanwhile are empty, and stay so
                    await pending.wait_until_empty()
                yield
            finally:
                self._open.set()
