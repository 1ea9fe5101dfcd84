"""Enqueues due webhook deliveries to rq, up to the number of free threads.

Other deliveries stay in the outbox, which is durable and serves endpoints in rotation.
"""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NoReturn

from background.rq_pool import RqPool, WorkKind
from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.outage_log import OutageLog
from jobs.store.background_lease import BackgroundLease
from jobs.store.job_store import JobStore
from jobs.webhooks import outbox
from jobs.webhooks.outbox import LANES, DeliveryLimits, Lane

log = logging.getLogger("jitney.background")

PAUSE_S: Final = 0.2


class Dispatcher:
    """One dispatch loop per lane."""

    def __init__(
        self,
        store: JobStore,
        rq_pool: RqPool,
        slots: Mapping[WorkKind, int],
        *,
        limits: DeliveryLimits,
        poll_s: float,
        thread: ThreadPoolExecutor,
    ) -> None:
        """Create a dispatcher. `thread` runs rq's calls, which block."""
        self._store, self._rq_pool, self._slots, self._limits = store, rq_pool, slots, limits
        self._poll_s = poll_s
        self._woken: dict[Lane, asyncio.Event] = {lane: asyncio.Event() for lane in LANES}
        self._thread = thread

    def wake(self) -> None:
        """Check for due deliveries now: something was written, or a thread is free."""
        for woken in self._woken.values():
            woken.set()

    async def run(self, lane: Lane) -> NoReturn:
        """Dispatch due deliveries of a lane until cancelled."""
        outage, woken = OutageLog(log, f"read the outbox ({lane})"), self._woken[lane]
        while True:
            woken.clear()
            try:
                wait_s = await self.dispatch_once(lane)
                outage.ended()
            except StoreUnavailable as error:
                outage.began(error)
                await asyncio.sleep(PAUSE_S)
                continue
            # Not wait_for: before Python 3.12 it may swallow a cancellation that comes with the wake.
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await woken.wait()

    async def dispatch_once(self, lane: Lane) -> float:
        """Dispatch the deliveries that are due; returns the seconds to wait for the next call unless woken."""
        loop = asyncio.get_running_loop()
        queued = await loop.run_in_executor(self._thread, self._rq_pool.queued, lane)
        room = self._slots[lane] - self._rq_pool.busy[lane] - queued
        wait_s = self._poll_s
        for root in self._store.roots:
            if room <= 0:
                return self._poll_s
            leases, due_s = await outbox.dispatch_due(
                self._store, root, lane, room, slots=self._slots[lane], limits=self._limits
            )
            if leases:
                await self._put(lane, leases)
                room -= len(leases)
            if due_s is not None:
                wait_s = min(wait_s, due_s)
        return wait_s if room > 0 else self._poll_s

    async def _put(self, lane: Lane, leases: list[BackgroundLease]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._rq_pool.put, lane, leases)
