"""Runs a custom task's postprocessing in worker threads, and limits the outputs that wait for it."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import BlackBox
from worker.execution.batch_run import Bench, Ran, show
from worker.execution.pending_items import Ended
from worker.fair_thread_pool import Threads, Work

MOST: Final = 256  # outputs that wait; no batch runs while there are more


class Ends(Protocol):
    """Where outcomes go: into the queue (result_writer.py), or to what runs a model without one (offline.py)."""

    def add(self, ended: Sequence[Ended]) -> None:
        """Take in outcomes."""

    async def until_room(self) -> None:
        """Wait while there are too many of them."""


class Showing:
    """Of one model. Each rider's answer is made by itself: a slow one holds no other up."""

    def __init__(self, bench: Bench, ends: Ends, threads: Threads) -> None:
        self._bench, self._ends, self._threads = bench, ends, threads
        self._count = 0
        self._ended = asyncio.Event()

    def add(self, ran: Sequence[Ran]) -> None:
        """Show these in the background."""
        model, box = self._bench.model, self._bench.box
        for one in ran:
            job = one.rider.job
            work = Work(job.tenant, model.name, partial(_show, model, box, one), until=one.rider.expires_at)
            self._count += 1
            self._threads.submit(work).add_done_callback(self._take)

    async def until_room(self) -> None:
        """Wait while too many outputs wait."""
        while self._count > MOST:
            self._ended.clear()
            await self._ended.wait()

    def _take(self, shown: "asyncio.Future[Ended]") -> None:
        self._count -= 1
        self._ended.set()
        if not shown.cancelled():
            self._ends.add([shown.result()])


def _show(model: Model, box: BlackBox, ran: Ran) -> Ended:
    box.hold([ran.rider.job.claim])
    try:
        return show(model, ran)
    finally:
        box.let_go()
