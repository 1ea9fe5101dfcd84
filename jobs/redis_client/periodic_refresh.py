"""What is kept fresh in the background: looked at again every so often, and at once when there is news of it."""

import asyncio
import logging
from abc import ABC, abstractmethod

from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.outage_log import OutageLog

RETRY_S = 0.5


class PeriodicRefresh(ABC):
    """Something that lies in the queue and is known here as of the last look."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        """`what`: that which can not be done while the queue's server is away, for the log."""
        self._look = asyncio.Event()
        self._is_known = False
        self._outage = OutageLog(log, what)

    @abstractmethod
    async def refresh(self) -> None:
        """Look once; raises StoreUnavailable."""

    def refresh_now(self) -> None:
        """Have the background loop look at once."""
        self._look.set()

    async def check(self) -> None:
        """Look, unless a look has succeeded before; raises StoreUnavailable."""
        if not self._is_known:
            await self.refresh()
            self._is_known = True

    async def wait_until_known(self) -> None:
        """Wait for the first look that succeeds, however long the queue's server is away."""
        while True:
            try:
                await self.check()
            except StoreUnavailable as error:
                self._outage.began(error)
                await asyncio.sleep(RETRY_S)
            else:
                self._outage.ended()
                return

    async def run(self, interval_s: float) -> None:
        """Look again and again, until cancelled."""
        while True:
            self._look.clear()
            try:
                await self.refresh()
                self._is_known = True
                self._outage.ended()
            except StoreUnavailable as error:
                self._outage.began(error)
            await wait_for_event(self._look, interval_s)
