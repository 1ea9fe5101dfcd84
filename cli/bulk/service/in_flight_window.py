"""How much is in flight: more as long as the service takes it, half as much when it says 429 or 503.

Whoever was refused waits for Retry-After, and so does everybody else: it is one service. Owns no HTTP.
"""

import asyncio
from collections.abc import Callable
from typing import Final

MIN_SIZE: Final = 1
INITIAL_SIZE: Final = 100


class InFlightWindow:
    """Jobs in flight, by whole chunks. `most` is never passed, but by a chunk that is alone."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        """`clock` in seconds."""
        self.most, self.limit, self.in_flight = most, float(min(most, INITIAL_SIZE)), 0
        self._clock, self._changed = clock, asyncio.Event()
        self._resumes_at = self._halved_at = 0.0
        self._growth = 1 / 4

    @property
    def share(self) -> int:
        """How many jobs one request may bring: a service that takes a few takes those."""
        return max(MIN_SIZE, int(self.limit))

    async def enter(self, jobs: int) -> None:
        """Wait until there is room for so many."""
        while self.in_flight and self.in_flight + jobs > self.limit:
            self._changed.clear()
            await self._changed.wait()
        self.in_flight += jobs

    def leave(self, jobs: int) -> None:
        """They have ended."""
        self.in_flight -= jobs
        self._changed.set()

    def taken(self, jobs: int) -> None:
        """All of a request were taken: more may be in flight, and a little more where that was too much before."""
        self.limit = min(float(self.most), self.limit + jobs * self._growth)
        self._changed.set()

    def refused(self, retry_after_s: float) -> None:
        """Some were refused: half as much, once for all requests that met the same full queue."""
        now = self._clock()
        self._resumes_at = max(self._resumes_at, now + retry_after_s)
        if now >= self._halved_at + retry_after_s:
            self.limit, self._halved_at, self._growth = max(float(MIN_SIZE), self.limit / 2), now, 1 / 50

    async def wait_until_allowed(self) -> None:
        """Wait until the service may be asked again."""
        while (left := self._resumes_at - self._clock()) > 0:  # noqa: ASYNC110 - a time, which may be put off meanwhile
            await asyncio.sleep(left)
