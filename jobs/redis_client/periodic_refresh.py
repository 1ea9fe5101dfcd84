"""Base class of cached state that is refreshed periodically and on notification."""

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod

from jobs.redis_client.event_wait import next_turn_s, wait_for_event
from jobs.redis_client.outage_log import OutageLog

RETRY_S = 0.5
_TURN_OFFSET_S = random.uniform(0, 60)  # noqa: S311 (other processes of this machine have other turns)


class PeriodicRefresh(ABC):
    """State in Redis with a local copy, as of the last refresh."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        """`what` completes "cannot …" in the log while Redis is unreachable."""
        self._refresh_due = asyncio.Event()
        self._is_known = False
        self._outage = OutageLog(log, what)

    @abstractmethod
    async def refresh(self) -> None:
        """Refresh once. Raises StoreUnavailable."""

    def refresh_now(self) -> None:
        """Make the background loop refresh at once."""
        self._refresh_due.set()

    async def check(self) -> None:
        """Refresh unless a refresh has already succeeded. Raises StoreUnavailable."""
        if not self._is_known:
            await self.refresh()
            self._is_known = True

    async def wait_until_known(self) -> None:
        """Wait until the first refresh succeeds, however long Redis is unreachable."""
        await self._outage.retry(self.check, RETRY_S)

    async def run(self, interval_s: float) -> None:
        """Refresh every `interval_s` seconds, together with other refreshes, and on `refresh_now`, until cancelled."""
        while True:
            self._refresh_due.clear()
            with self._outage.suppress():
                await self.refresh()
                self._is_known = True
            await wait_for_event(self._refresh_due, next_turn_s(interval_s, time.monotonic() + _TURN_OFFSET_S))
