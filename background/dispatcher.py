"""Enqueues due background work (webhook deliveries, bulk steps) to rq, up to the number of free threads.

Other work stays in Redis, which is durable and serves endpoints and bulk jobs in rotation.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, NoReturn

from background.rq_pool import RqPool, WorkKind
from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.outage_log import OutageLog
from jobs.store.background_lease import BackgroundLease

log = logging.getLogger("jitney.background")

PAUSE_S: Final = 0.2
# Leases up to a number of due pieces of work on a shard; also returns the seconds until the next is due, if any is.
LeaseDue = Callable[[str, int], Awaitable[tuple[list[BackgroundLease], float | None]]]


@dataclass
class Dispatcher:
    """Dispatches one kind of work to its threads, `slots` in number."""

    roots: Sequence[str]
    rq_pool: RqPool
    thread: ThreadPoolExecutor  # runs rq's calls, which block
    kind: WorkKind
    lease_due: LeaseDue
    slots: int
    poll_s: float
    queued: int = 0  # rq jobs that waited for a thread at the last look
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Check for due work now: something was written, or a thread is free."""
        self._woken.set()

    async def run(self) -> NoReturn:
        """Dispatch due work until cancelled."""
        outage = OutageLog(log, f"read due work ({self.kind})")
        while True:
            self._woken.clear()
            try:
                wait_s = await self._dispatch_once()
                outage.ended()
            except StoreUnavailable as error:
                outage.began(error)
                await asyncio.sleep(PAUSE_S)
                continue
            await wait_for_event(self._woken, wait_s)

    async def _dispatch_once(self) -> float:
        """Dispatch the work that is due; returns the seconds to wait for the next call unless woken."""
        loop, kind = asyncio.get_running_loop(), self.kind
        self.queued = await loop.run_in_executor(self.thread, self.rq_pool.queued, kind)
        room, wait_s = self.slots - self.rq_pool.busy[kind] - self.queued, self.poll_s
        for root in self.roots:
            if room <= 0:
                break
            leases, due_s = await self.lease_due(root, room)
            if leases:
                await loop.run_in_executor(self.thread, self.rq_pool.put, kind, leases)
                room -= len(leases)
            wait_s = wait_s if due_s is None else min(wait_s, due_s)
        return wait_s if room > 0 else self.poll_s
