"""Hands what is due in the outbox to rq, as much as there are threads free.

What waits, waits in the outbox: there it is safe, and endpoints take turns.
"""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NoReturn

from background.rq_pool import Carrier, Errand
from jobs.contract.background_lease import Flight
from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.outage_log import Outage
from jobs.store.job_store import JobStore
from jobs.webhooks import outbox
from jobs.webhooks.outbox import LANES, Lane, Limits

log = logging.getLogger("jitney.deliver")

PAUSE_S: Final = 0.2


class Drain:
    """One loop a lane."""

    def __init__(
        self,
        store: JobStore,
        carrier: Carrier,
        slots: Mapping[Errand, int],
        *,
        limits: Limits,
        poll_s: float,
        thread: ThreadPoolExecutor,
    ) -> None:
        """`thread`: where rq's calls are made, for they block."""
        self._store, self._carrier, self._slots, self._limits = store, carrier, slots, limits
        self._poll_s = poll_s
        self._woken: dict[Lane, asyncio.Event] = {lane: asyncio.Event() for lane in LANES}
        self._thread = thread

    def wake(self) -> None:
        """Look at once: something was written, or a thread is free."""
        for woken in self._woken.values():
            woken.set()

    async def run(self, lane: Lane) -> NoReturn:
        """Drain until cancelled."""
        outage, woken = Outage(log, f"drain the outbox ({lane})"), self._woken[lane]
        while True:
            woken.clear()
            try:
                wait_s = await self.tick(lane)
                outage.ended()
            except StoreUnavailable as error:
                outage.began(error)
                await asyncio.sleep(PAUSE_S)
                continue
            # Not wait_for: until Python 3.12 it may swallow a cancellation that comes with the wake.
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await woken.wait()

    async def tick(self, lane: Lane) -> float:
        """Hand out once; gives how many seconds there is nothing to do unless woken."""
        loop = asyncio.get_running_loop()
        queued = await loop.run_in_executor(self._thread, self._carrier.queued, lane)
        room = self._slots[lane] - self._carrier.busy[lane] - queued
        wait_s = self._poll_s
        for root in self._store.roots:
            if room <= 0:
                return self._poll_s
            flights, due_s = await outbox.dispatch(
                self._store, root, lane, room, slots=self._slots[lane], limits=self._limits
            )
            if flights:
                await self._put(lane, flights)
                room -= len(flights)
            if due_s is not None:
                wait_s = min(wait_s, due_s)
        return wait_s if room > 0 else self._poll_s

    async def _put(self, lane: Lane, flights: list[Flight]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._carrier.put, lane, flights)
