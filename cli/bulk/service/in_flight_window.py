"""Limits the jobs in flight: grows while the service accepts them, halves after 429 or 503.

After a refusal, all requests wait for Retry-After.
"""

import asyncio
from collections.abc import Callable
from typing import Final

MIN_SIZE: Final = 1
INITIAL_SIZE: Final = 100


class InFlightWindow:
    """Counts jobs in flight by chunks. Only a single chunk may exceed `max_size`."""

    def __init__(self, max_size: int, clock: Callable[[], float]) -> None:
        """Create a window of at most `max_size` jobs; `clock` returns seconds."""
        self.max_size, self.limit, self.in_flight = max_size, float(min(max_size, INITIAL_SIZE)), 0
        self._clock, self._changed = clock, asyncio.Event()
        self._resumes_at = self._halved_at = 0.0
        self._growth = 1 / 4

    @property
    def request_size(self) -> int:
        """The maximum number of jobs in one request."""
        return max(MIN_SIZE, int(self.limit))

    async def enter(self, jobs: int) -> None:
        """Wait until there is room for this many jobs, and count them."""
        while self.in_flight and self.in_flight + jobs > self.limit:
            self._changed.clear()
            await self._changed.wait()
        self.in_flight += jobs

    def leave(self, jobs: int) -> None:
        """Remove jobs that have ended."""
        self.in_flight -= jobs
        self._changed.set()

    def on_accepted(self, jobs: int) -> None:
        """Grow after a request whose jobs were all accepted; more slowly once there was a refusal."""
        self.limit = min(float(self.max_size), self.limit + jobs * self._growth)
        self._changed.set()

    def on_refused(self, retry_after_s: float) -> None:
        """Halve the window, once for all requests that met the same full queue."""
        now = self._clock()
        self._resumes_at = max(self._resumes_at, now + retry_after_s)
        if now >= self._halved_at + retry_after_s:
            self.limit, self._halved_at, self._growth = max(float(MIN_SIZE), self.limit / 2), now, 1 / 50

    async def wait_until_allowed(self) -> None:
        """Wait until requests are allowed again."""
        while (delay_s := self._resumes_at - self._clock()) > 0:  # noqa: ASYNC110 - the time may move meanwhile
            await asyncio.sleep(delay_s)
