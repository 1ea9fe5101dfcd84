"""Postprocesses outputs of custom tasks and large outputs in worker threads, and limits the outputs that wait."""

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

from worker.execution.batch_run import RunContext, RunOutput, postprocess_output
from worker.execution.pending_items import CompletedItem
from worker.fair_thread_pool import Work, WorkExecutor

MAX_WAITING_OUTPUTS: Final = 256  # no batch runs while more outputs wait, or more bytes
MAX_WAITING_BYTES: Final = 64 << 20


class ResultSink(Protocol):
    """Receives outcomes: the result writer (result_writer.py), or an offline run (offline.py)."""

    def add(self, ended: Sequence[CompletedItem]) -> None:
        """Add outcomes."""

    async def wait_for_room(self) -> None:
        """Wait while too many outcomes, or bytes of them, are pending."""


class Postprocessor:
    """Postprocesses the items of one model one by one, so that a slow item delays no other.

    Outputs of built-in tasks come here because they are large: one at a time, and only while the sink has room.
    """

    def __init__(
        self, run_context: RunContext, sink: ResultSink, threads: WorkExecutor, encoder: asyncio.Lock | None = None
    ) -> None:
        """Create a postprocessor. `encoder`: held while a large output is encoded, by all models of a worker."""
        self._run_context, self._sink, self._threads = run_context, sink, threads
        self._encoder = encoder or asyncio.Lock()
        self._waiting = self._waiting_bytes = 0
        self._ended = asyncio.Event()
        self._large: deque[RunOutput] = deque()
        self._encoding: asyncio.Task[None] | None = None

    def add(self, ran: Sequence[RunOutput]) -> None:
        """Postprocess outputs in the background."""
        self._waiting += len(ran)
        self._waiting_bytes += sum(map(_size, ran))
        if not self._run_context.model.has_custom_task:
            self._large += ran
            if self._large and (self._encoding is None or self._encoding.done()):
                self._encoding = asyncio.create_task(self._encode_large())
            return
        for output in ran:
            self._submit(output)

    async def wait_for_room(self) -> None:
        """Wait while too many outputs, or bytes of them, wait for postprocessing."""
        while self._waiting > MAX_WAITING_OUTPUTS or self._waiting_bytes > MAX_WAITING_BYTES:
            self._ended.clear()
            await self._ended.wait()

    async def _encode_large(self) -> None:
        while self._large:
            await self._sink.wait_for_room()
            async with self._encoder:
                await asyncio.wait([self._submit(self._large.popleft())])

    def _submit(self, ran: RunOutput) -> "asyncio.Future[CompletedItem]":
        job, item = ran.item.job, ran.item
        run = partial(_postprocess, self._run_context, ran)
        future = self._threads.submit(Work(job.tenant, self._run_context.model.name, run, until=item.expires_at))
        future.add_done_callback(partial(self._on_postprocessed, _size(ran)))
        return future

    def _on_postprocessed(self, size: int, future: "asyncio.Future[CompletedItem]") -> None:
        self._waiting -= 1
        self._waiting_bytes -= size
        self._ended.set()
        if not future.cancelled():
            self._sink.add([future.result()])


def _size(ran: RunOutput) -> int:
    return sum(array.nbytes for array in ran.outputs.values())


def _postprocess(run_context: RunContext, ran: RunOutput) -> CompletedItem:
    run_context.journal.record([ran.item.job.claim])
    try:
        return postprocess_output(run_context, ran)
    finally:
        run_context.journal.clear()
