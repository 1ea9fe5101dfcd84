"""Lets calls that arrive one after another submit their jobs together, so that they share a round trip to Redis.

gRPC hands over one call in each iteration of the event loop, where HTTP connections hand over many. A lone call is not
delayed.
"""

import asyncio
from typing import Final

SHARE: Final = 2  # a group is complete with this part of the calls in progress,
MAX_CALLS: Final = 16  # or with so many
LIMIT_S: Final = 0.002  # after which an incomplete group is submitted


class SubmitGathering:
    """The calls that wait for others."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def join(self, in_progress: int) -> None:
        """Return once enough calls have joined, or LIMIT_S after the first. `in_progress`: calls, this one included."""
        waiting = self._waiting
        if len(waiting) + 1 >= min(in_progress // SHARE, MAX_CALLS):
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
