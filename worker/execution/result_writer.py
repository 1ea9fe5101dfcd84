"""Writes down how jobs ended: everything that is ready goes in one write, while the next batch runs."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence

from jobs.contract.errors import StoreUnavailable
from jobs.metrics.histograms import Tally
from jobs.store.job_store import JobStore
from worker.execution.pending_items import Board, Ended

log = logging.getLogger("jitney.worker")

OUTAGE_PAUSE_S = 0.2


class Finisher:
    """The write-back of one model. While Redis is away, results wait here until their leases would be over."""

    def __init__(self, store: JobStore, worker_id: str, board: Board, tally: Tally, backlog: int) -> None:
        self._store, self._worker_id, self._board, self._tally = store, worker_id, board, tally
        self._backlog = backlog
        self._ready: list[Ended] = []
        self._added, self._written = asyncio.Event(), asyncio.Event()

    def add(self, ended: Sequence[Ended]) -> None:
        """Take in outcomes; they are written in the background."""
        if ended:
            self._ready += ended
            self._added.set()

    async def until_room(self) -> None:
        """Wait while too many results are unwritten: running more would only pile them up."""
        while len(self._ready) > self._backlog:
            self._written.clear()
            await self._written.wait()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            self._added.clear()
            if not self._ready:
                await self._added.wait()
            await self._write_ready()
            self._written.set()

    async def _write_ready(self) -> None:
        """Write what is ready; outcomes are not kept beyond that, for they may be large."""
        ended, self._ready = self._ready, []
        await self._write(ended)
        self._board.leave([end.rider.job for end in ended])
        self._count(ended)

    async def _write(self, ended: Sequence[Ended]) -> None:
        give_up_at = time.monotonic() + self._store.settings.lease_s
        while True:
            try:
                refused = await self._store.finish(self._worker_id, [end.outcome for end in ended])
            except StoreUnavailable as error:
                if time.monotonic() > give_up_at:
                    log.warning("%d results given up, their leases are over: %s", len(ended), error)
                    return
                await asyncio.sleep(OUTAGE_PAUSE_S)
                continue
            if refused:
                log.warning("%d of %d results came too late: canceled, expired or reclaimed", refused, len(ended))
            return

    def _count(self, ended: Sequence[Ended]) -> None:
        now, saw = time.monotonic(), self._tally.saw
        for rider, outcome in ended:
            queue_ms = (rider.job.claimed_us - rider.job.created_us) / 1000
            saw("queue", queue_ms)
            saw("decode", outcome.decode_ms)
            saw("total", queue_ms + (now - rider.claimed_at) * 1000)
            if outcome.batch_size:
                saw("batch", outcome.batch_ms)
        for (size, infer_ms), riders in Counter((o.batch_size, o.infer_ms) for _, o in ended).items():
            if size:
                saw("size", size, riders // size)
                saw("infer", infer_ms, riders // size)
