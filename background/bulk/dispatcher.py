"""Enqueues bulk jobs whose step is due to rq, up to the number of free threads; removes expired files."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NoReturn

from background.rq_pool import BULK, RqPool
from jobs.bulk import checkpoints, files
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.contract.errors import RetryLater, StoreUnavailable
from jobs.redis_client.outage_log import OutageLog
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.background")

PAUSE_S: Final = 0.2


class BulkDispatcher:
    """Two loops: `run` dispatches due steps, `sweep` removes expired files."""

    def __init__(
        self, settings: BulkSettings, store: JobStore, storage: Storage, rq_pool: RqPool, thread: ThreadPoolExecutor
    ) -> None:
        """Create a dispatcher. `thread` runs rq's calls, which block."""
        self._settings, self._store, self._storage, self._rq_pool = settings, store, storage, rq_pool
        self._thread, self._woken = thread, asyncio.Event()

    def wake(self) -> None:
        """Check for due steps now: a bulk job was created, outcomes came, or a thread is free."""
        self._woken.set()

    async def run(self) -> NoReturn:
        """Dispatch due steps until cancelled."""
        outage = OutageLog(log, "read due bulk jobs")
        while True:
            self._woken.clear()
            try:
                wait_s = await self._dispatch_once()
                outage.ended()
            except StoreUnavailable as error:
                outage.began(error)
                await asyncio.sleep(PAUSE_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()

    async def _dispatch_once(self) -> float:
        """Dispatch the steps that are due; returns the seconds to wait for the next call unless woken."""
        s, loop = self._settings, asyncio.get_running_loop()
        queued = await loop.run_in_executor(self._thread, self._rq_pool.queued, BULK)
        room, wait_s = s.bulk_concurrency - self._rq_pool.busy[BULK] - queued, s.bulk_poll_s
        for root in self._store.roots:
            if room <= 0:
                return s.bulk_poll_s
            leases, due_s = await checkpoints.dispatch_due_steps(
                self._store, root, room, s.bulk_concurrency, int(s.bulk_step_lease_s * 1000)
            )
            if leases:
                await loop.run_in_executor(self._thread, self._rq_pool.put, BULK, leases)
                room -= len(leases)
            wait_s = wait_s if due_s is None else min(wait_s, due_s)
        return wait_s if room > 0 else s.bulk_poll_s

    async def sweep(self) -> NoReturn:
        """Remove expired files periodically, until cancelled."""
        outage = OutageLog(log, "remove expired files")
        while True:
            try:
                removed = await files.remove_expired(self._store, self._storage, await self._store.connection.now_ms())
                outage.ended()
                if removed:
                    log.info("removed %d bulk files that had expired or were deleted", removed)
            except RetryLater as error:
                outage.began(error)
            except Exception:
                log.exception("cannot remove an expired file; will retry")
            await asyncio.sleep(self._settings.bulk_sweep_s)
