"""Runs a model over many inputs in one process, without a queue: decode pool → pending items → device.

Returns results in input order. No caller waits for a single result, so a batch waits until it is full.
"""

import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count, islice
from typing import Final, NamedTuple, TypeVar

from batching.batcher import BatchLimits
from jobs.contract.job import ClaimedJob, Outcome
from jobs.contract.lifecycle import State
from jobs.redis_client.task_supervisor import TaskSupervisor
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution.batch_run import RunContext
from worker.execution.device import Device, run_batches
from worker.execution.inline_runs import InlineRunPolicy
from worker.execution.pending_items import CompletedItem, PendingItems, WorkItem
from worker.execution.postprocess import Postprocessor
from worker.execution.preprocess import ITEMS_PER_DECODE, item_of, preprocess_items
from worker.fair_thread_pool import Work

T = TypeVar("T")

FULL_BATCH_WAIT_S: Final = 0.25  # longest wait for a full batch; decoding keeps the cores busy meanwhile
STUCK_S: Final = 60.0
NEVER_S: Final = 1e8
NICE_INCREMENT: Final = 10
WHOLE_OUTPUT: Final = 1 << 62  # outputs are not cut into chunks
MAX_UNREAD_RESULTS: Final = 4096  # results that wait for earlier ones, or for the caller


class OfflineInput(NamedTuple):
    """One input. `read` returns its bytes, in a thread of the decode pool; an exception it raises is the result."""

    kind: str
    read: Callable[[], bytes]
    parameters: bytes = b"{}"
    rows: int = 0  # as in ClaimedJob


OfflineResult = Outcome | Exception


class PendingResult:
    """A result in input order; `end` is None until it is known."""

    __slots__ = ("end", "offline_input")

    def __init__(self, offline_input: OfflineInput) -> None:
        self.offline_input = offline_input
        self.end: OfflineResult | None = None


class Offline:
    """Runs one model over inputs; `run` may be called once."""

    def __init__(self, model: Model, decode_threads: int) -> None:
        limits = BatchLimits(model.max_batch, model.max_batch_cost, FULL_BATCH_WAIT_S, model.run_overhead)
        self._model = model
        self._pending = PendingItems(limits, ahead=2 * model.max_batch + 2 * decode_threads * ITEMS_PER_DECODE)
        self._device, self._journal = Device(STUCK_S), InFlightJournal(None, "", 0, 0)
        self._decoders = ThreadPoolExecutor(decode_threads, "decode", _lower_priority)
        self._order: deque[PendingResult] = deque()
        self._pending_results: dict[str, PendingResult] = {}
        self._tasks = TaskSupervisor()
        self._ended, self._read_some = asyncio.Event(), asyncio.Event()

    async def run(self, offline_inputs: Iterator[OfflineInput]) -> AsyncIterator[list[OfflineResult]]:
        """Yield the results of all inputs in order, as many at a time as are ready; raises errors of the iterator."""
        inline_policy = InlineRunPolicy(self._model.inputs, runs_custom_code=self._model.runs_custom_code)
        run_context = RunContext(self._model, self._pending.ceilings, self._journal, inline_policy, WHOLE_OUTPUT)
        feeding = asyncio.create_task(self._feed(offline_inputs))
        serving = asyncio.create_task(
            run_batches(run_context, self._pending, self._device, self, Postprocessor(run_context, self, self))
        )
        for task in (feeding, serving):
            task.add_done_callback(lambda _: self._ended.set())
        try:
            while self._order or not feeding.done():
                self._ended.clear()
                if ready := self._ready():
                    yield ready
                    continue
                for task in (feeding, serving):
                    if task.done():
                        task.result()
                if self._order or not feeding.done():
                    await self._ended.wait()
            feeding.result()
        finally:
            for task in (feeding, serving):
                task.cancel()
            await asyncio.gather(feeding, serving, return_exceptions=True)
            self._decoders.shutdown(wait=False, cancel_futures=True)
            self._device.close()

    def submit(self, work: Work[T]) -> "asyncio.Future[T]":
        """Run work in a thread of the decode pool, in order of arrival: there is only one tenant."""
        return asyncio.get_running_loop().run_in_executor(self._decoders, work.run)

    def add(self, ended: Sequence[CompletedItem]) -> None:
        """Store outcomes; a job to be retried runs again."""
        ended = [end for end in ended if end.item.end()]
        self._pending.discard([item.job for item, _ in ended])
        loop = asyncio.get_running_loop()
        for item, outcome in ended:
            if outcome.state == State.QUEUED:
                job = item.job._replace(attempt=item.job.attempt + 1, retries=item.job.retries + 1)
                loop.call_later(outcome.after_ms / 1000, self._add_all, [job])
            else:
                self._end(item.job.id, outcome)

    async def wait_for_room(self) -> None:
        """Wait while too many results are unread."""
        while len(self._order) > MAX_UNREAD_RESULTS:
            self._read_some.clear()
            await self._read_some.wait()

    def _ready(self) -> list[OfflineResult]:
        """Remove and return the results that no earlier input holds up."""
        ready: list[OfflineResult] = []
        while self._order and (end := self._order[0].end) is not None:
            self._order.popleft()
            ready.append(end)
        if ready:
            self._read_some.set()
        return ready

    def _end(self, name: str, end: OfflineResult) -> None:
        pending_result = self._pending_results.pop(name)
        pending_result.end = end
        if pending_result is self._order[0]:
            self._ended.set()

    async def _feed(self, offline_inputs: Iterator[OfflineInput]) -> None:
        numbers = count()
        while True:
            await self._pending.wait_for_room()
            await self.wait_for_room()
            chunk = list(islice(offline_inputs, min(self._pending.room, ITEMS_PER_DECODE)))
            if not chunk:
                break
            jobs = [
                ClaimedJob(str(next(numbers)), 1, each.kind, b"", each.parameters, 0, 0, 0, rows=each.rows)
                for each in chunk
            ]
            for job, offline_input in zip(jobs, chunk, strict=True):
                self._pending_results[job.id] = pending_result = PendingResult(offline_input)
                self._order.append(pending_result)
            self._add_all(jobs)
            await asyncio.sleep(0)
        self._pending.close()

    def _add_all(self, jobs: Sequence[ClaimedJob]) -> None:
        now = time.monotonic()
        items = [item_of(self._model, job, now, now + NEVER_S) for job in jobs]
        self._pending.add(*items)
        self._tasks.run(self._decode(items))

    async def _decode(self, items: list[WorkItem]) -> None:
        loop = asyncio.get_running_loop()
        with suppress(asyncio.CancelledError):  # the pool is closed
            read_errors, readable, ends = await loop.run_in_executor(self._decoders, self._read_and_preprocess, items)
            for job_id, error in read_errors.items():
                self._pending.discard([item.job for item in items if item.job.id == job_id])
                self._end(job_id, error)
            self.add([end for end in ends if end is not None])
            self._pending.mark_ready(*(item for item, end in zip(readable, ends, strict=True) if end is None))

    def _read_and_preprocess(
        self, items: list[WorkItem]
    ) -> tuple[dict[str, Exception], list[WorkItem], list[CompletedItem | None]]:
        """Read the inputs and preprocess them; returns errors by job, then the items that were read and their ends."""
        read_errors: dict[str, Exception] = {}
        readable: list[WorkItem] = []
        for item in items:
            job_id = item.job.id
            try:
                item.job = item.job._replace(input=self._pending_results[job_id].offline_input.read())
                readable.append(item)
            except Exception as error:  # noqa: BLE001 (the error becomes the input's result)
                read_errors[job_id] = error
        return read_errors, readable, preprocess_items(self._model, self._journal, readable)


def _lower_priority() -> None:
    """Lower the priority of this decode thread: a device thread that waits for a core delays all other device threads.

    Measured with SqueezeNet on two cores: 6.5 % more images per second. A serving worker does not do this: other
    processes would starve its decoding. Only Linux has priorities per thread.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE_INCREMENT)
