"""Delays the submits of gRPC calls for up to 2 ms, so that api/gateway/submit_coalescer.py finds several to combine.

The coalescer combines what one iteration of the event loop submits. gRPC hands over one call in each iteration, where
HTTP connections hand over many. A lone call is not delayed.
"""

import asyncio
from typing import Final

DIVISOR: Final = 2  # a group is complete with the calls in progress divided by this,
MAX_CALLS: Final = 16  # or with this number of calls
LIMIT_S: Final = 0.002  # after which an incomplete group is submitted


class SubmitDelay:
    """The calls that wait for others."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def join(self, in_progress: int) -> None:
        """Return once enough calls have joined, or LIMIT_S after the first. `in_progress`: calls, this one included."""
        waiting = self._waiting
        if len(waiting) + 1 >= min(in_progress // DIVISOR, MAX_CALLS):
            if waiting:
                self._release()
            return
        future: asyncio.Future[None] = self._loop.create_future()
        waiting.append(future)
        if self._timer is None:
            self._timer = self._loop.call_later(LIMIT_S, self._release)
        await future

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()
