"""Gate that lets either all claim loops claim, or one claim loop run suspects with the worker to itself.

A worker that runs suspects holds no other jobs: if it dies, no other job is delayed or suspected.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from worker.execution.pending_items import PendingItems


class IsolationGate:
    """Open unless a suspect group runs."""

    def __init__(self) -> None:
        self._isolated_run = asyncio.Lock()
        self._open, self._all_left = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._claiming = 0

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    async def enter(self) -> None:
        """Begin a claim; waits while suspects run."""
        await self._open.wait()
        self._claiming += 1

    def leave(self) -> None:
        """End a claim: its jobs are pending."""
        self._claiming -= 1
        if not self._claiming:
            self._all_left.set()

    @asynccontextmanager
    async def exclusive(self, pending_items: Iterable[PendingItems]) -> AsyncIterator[None]:
        """Hold the worker exclusively: no other claims and no pending or running items."""
        async with self._isolated_run:
            self._open.clear()
            try:
                while self._claiming:
                    self._all_left.clear()
                    await self._all_left.wait()
                for pending in [*pending_items]:  # those added meanwhile stay empty
                    await pending.wait_until_empty()
                yield
            finally:
                self._open.set()
