"""Runs a custom task's postprocessing in worker threads, and limits the outputs that wait for it."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution.batch_run import RunContext, RunOutput, postprocess_output
from worker.execution.pending_items import CompletedItem
from worker.fair_thread_pool import Work, WorkExecutor

MAX_WAITING_OUTPUTS: Final = 256  # outputs that wait; no batch runs while there are more


class ResultSink(Protocol):
    """Where outcomes go: into the queue (result_writer.py), or to what runs a model without one (offline.py)."""

    def add(self, ended: Sequence[CompletedItem]) -> None:
        """Take in outcomes."""

    async def wait_for_room(self) -> None:
        """Wait while there are too many of them."""


class Postprocessor:
    """Of one model. Each rider's answer is made by itself: a slow one holds no other up."""

    def __init__(self, run_context: RunContext, sink: ResultSink, threads: WorkExecutor) -> None:
        self._run_context, self._sink, self._threads = run_context, sink, threads
        self._count = 0
        self._ended = asyncio.Event()

    def add(self, ran: Sequence[RunOutput]) -> None:
        """Show these in the background."""
        model, journal = self._run_context.model, self._run_context.journal
        for one in ran:
            job = one.item.job
            work = Work(job.tenant, model.name, partial(_postprocess, model, journal, one), until=one.item.expires_at)
            self._count += 1
            self._threads.submit(work).add_done_callback(self._take)

    async def wait_for_room(self) -> None:
        """Wait while too many outputs wait."""
        while self._count > MAX_WAITING_OUTPUTS:
            self._ended.clear()
            await self._ended.wait()

    def _take(self, shown: "asyncio.Future[CompletedItem]") -> None:
        self._count -= 1
        self._ended.set()
        if not shown.cancelled():
            self._sink.add([shown.result()])


def _postprocess(model: Model, journal: InFlightJournal, ran: RunOutput) -> CompletedItem:
    journal.record([ran.item.job.claim])
    try:
        return postprocess_output(model, ran)
    finally:
        journal.clear()
