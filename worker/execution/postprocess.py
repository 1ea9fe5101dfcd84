"""Runs a custom task's postprocessing in worker threads and limits the outputs that wait for it."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution.batch_run import RunContext, RunOutput, postprocess_output
from worker.execution.pending_items import CompletedItem
from worker.fair_thread_pool import Work, WorkExecutor

MAX_WAITING_OUTPUTS: Final = 256  # no batch runs while more outputs wait


class ResultSink(Protocol):
    """Receives outcomes: the result writer (result_writer.py), or an offline run (offline.py)."""

    def add(self, ended: Sequence[CompletedItem]) -> None:
        """Add outcomes."""

    async def wait_for_room(self) -> None:
        """Wait while too many outcomes are pending."""


class Postprocessor:
    """Postprocesses the items of one model one by one, so that a slow item delays no other."""

    def __init__(self, run_context: RunContext, sink: ResultSink, threads: WorkExecutor) -> None:
        self._run_context, self._sink, self._threads = run_context, sink, threads
        self._waiting = 0
        self._ended = asyncio.Event()

    def add(self, ran: Sequence[RunOutput]) -> None:
        """Postprocess outputs in the background."""
        model, journal = self._run_context.model, self._run_context.journal
        for output in ran:
            job = output.item.job
            work = Work(
                job.tenant, model.name, partial(_postprocess, model, journal, output), until=output.item.expires_at
            )
            self._waiting += 1
            self._threads.submit(work).add_done_callback(self._on_postprocessed)

    async def wait_for_room(self) -> None:
        """Wait while too many outputs wait for postprocessing."""
        while self._waiting > MAX_WAITING_OUTPUTS:
            self._ended.clear()
            await self._ended.wait()

    def _on_postprocessed(self, future: "asyncio.Future[CompletedItem]") -> None:
        self._waiting -= 1
        self._ended.set()
        if not future.cancelled():
            self._sink.add([future.result()])


def _postprocess(model: Model, journal: InFlightJournal, ran: RunOutput) -> CompletedItem:
    journal.record([ran.item.job.claim])
    try:
        return postprocess_output(model, ran)
    finally:
        journal.clear()
