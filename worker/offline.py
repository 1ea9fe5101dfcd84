"""A model run over many inputs in one process, without a queue: decode pool → board → device, as in a worker.

Gives ends in the order of the inputs. Nobody waits for one of them, so a batch waits until it is full.
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
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution.batch_run import RunContext
from worker.execution.device import Device, run_batches
from worker.execution.inline_runs import InlineRunPolicy
from worker.execution.pending_items import CompletedItem, PendingItems, WorkItem
from worker.execution.postprocess import Postprocessor
from worker.execution.preprocess import ITEMS_PER_DECODE, preprocess_items
from worker.fair_thread_pool import Work

T = TypeVar("T")

FULL_BATCH_WAIT_S: Final = 0.25  # longest wait for a full batch; decoding keeps the cores busy meanwhile
STUCK_S: Final = 60.0
NEVER_S: Final = 1e8
NICE_INCREMENT: Final = 10  # nice
MAX_UNREAD_RESULTS: Final = 4096  # ends that wait for those before them, or for whoever takes them


class OfflineInput(NamedTuple):
    """One input. `read` gives its bytes, in a thread of the decode pool; what it raises is the end of this one."""

    kind: str
    read: Callable[[], bytes]
    parameters: bytes = b"{}"


OfflineResult = Outcome | Exception


class PendingResult:
    """A place in the order of the inputs."""

    __slots__ = ("end", "offline_input")

    def __init__(self, offline_input: OfflineInput) -> None:
        self.offline_input = offline_input
        self.end: OfflineResult | None = None


class Offline:
    """One model and what runs it; `run` once."""

    def __init__(self, model: Model, decode_threads: int) -> None:
        limits = BatchLimits(max_items=model.max_batch, max_wait_s=FULL_BATCH_WAIT_S)
        self._model = model
        self._pending = PendingItems(limits, ahead=2 * model.max_batch + 2 * decode_threads * ITEMS_PER_DECODE)
        self._device, self._journal = Device(STUCK_S), InFlightJournal(None, "", 0, 0)
        self._decoders = ThreadPoolExecutor(decode_threads, "decode", _lower_priority)
        self._order: deque[PendingResult] = deque()
        self._pending_results: dict[str, PendingResult] = {}
        self._decoding: set[asyncio.Future[None]] = set()
        self._ended, self._taken = asyncio.Event(), asyncio.Event()

    async def run(self, offline_inputs: Iterator[OfflineInput]) -> AsyncIterator[list[OfflineResult]]:
        """Give the ends of all, as many at a time as are ready; raises what `rides` raises."""
        inline_policy = InlineRunPolicy(
            self._model.inputs, runs_custom_code=self._model.has_custom_task or self._model.has_custom_engine
        )
        run_context = RunContext(self._model, self._pending.ceilings, self._journal, inline_policy)
        feeding = asyncio.create_task(self._feed(offline_inputs))
        serving = asyncio.create_task(
            run_batches(run_context, self._pending, self._device, self, Postprocessor(run_context, self, self))
        )
        for loop in (feeding, serving):
            loop.add_done_callback(lambda _: self._ended.set())
        try:
            while self._order or not feeding.done():
                self._ended.clear()
                if ready := self._ready():
                    yield ready
                    continue
                for loop in (feeding, serving):
                    if loop.done():
                        loop.result()
                if self._order or not feeding.done():
                    await self._ended.wait()
            feeding.result()
        finally:
            for loop in (feeding, serving):
                loop.cancel()
            await asyncio.gather(feeding, serving, return_exceptions=True)
            self._decoders.shutdown(wait=False, cancel_futures=True)
            self._device.close()

    def submit(self, work: Work[T]) -> "asyncio.Future[T]":
        """Run work in a thread of the decode pool: there is one tenant, and no turns are taken."""
        return asyncio.get_running_loop().run_in_executor(self._decoders, work.run)

    def add(self, ended: Sequence[CompletedItem]) -> None:
        """Take in outcomes; one that says "try again" goes round once more."""
        self._pending.discard([item.job for item, _ in ended])
        loop = asyncio.get_running_loop()
        for item, outcome in ended:
            if outcome.state == State.QUEUED:
                job = item.job._replace(attempt=item.job.attempt + 1, retries=item.job.retries + 1)
                loop.call_later(outcome.after_ms / 1000, self._add_all, [job])
            else:
                self._end(item.job.id, outcome)

    async def wait_for_room(self) -> None:
        """Wait while too many ends are not taken."""
        while len(self._order) > MAX_UNREAD_RESULTS:
            self._taken.clear()
            await self._taken.wait()

    def _ready(self) -> list[OfflineResult]:
        """Take the ends that nobody before them is missing for."""
        ready: list[OfflineResult] = []
        while self._order and (end := self._order[0].end) is not None:
            self._order.popleft()
            ready.append(end)
        if ready:
            self._taken.set()
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
            few = list(islice(offline_inputs, min(self._pending.room, ITEMS_PER_DECODE)))
            if not few:
                break
            jobs = [
                ClaimedJob(str(next(numbers)), 1, offline_input.kind, b"", offline_input.parameters, 0, 0, 0)
                for offline_input in few
            ]
            for job, offline_input in zip(jobs, few, strict=True):
                self._pending_results[job.id] = pending_result = PendingResult(offline_input)
                self._order.append(pending_result)
            self._add_all(jobs)
            await asyncio.sleep(0)
        self._pending.close()

    def _add_all(self, jobs: Sequence[ClaimedJob]) -> None:
        now = time.monotonic()
        items = [WorkItem(job, {}, now, now + NEVER_S) for job in jobs]
        for item in items:
            self._pending.add(item)
        decoding = asyncio.ensure_future(self._decode(items))
        self._decoding.add(decoding)
        decoding.add_done_callback(self._decoding.discard)

    async def _decode(self, items: list[WorkItem]) -> None:
        loop = asyncio.get_running_loop()
        with suppress(asyncio.CancelledError):  # the pool is closed
            unread, ends = await loop.run_in_executor(self._decoders, self._read_and_prepare, items)
            for item in items:
                if (end := unread.get(item.job.id)) is not None:
                    self._pending.discard([item.job])
                    self._end(item.job.id, end)
                elif (failed := ends[item.job.id]) is None:
                    self._pending.mark_ready(item)
                else:
                    self.add([failed])

    def _read_and_prepare(self, items: list[WorkItem]) -> tuple[dict[str, Exception], dict[str, CompletedItem | None]]:
        unread: dict[str, Exception] = {}
        for item in items:
            try:
                item.job = item.job._replace(input=self._pending_results[item.job.id].offline_input.read())
            except Exception as error:  # noqa: BLE001 - whoever made the ride knows what it means
                unread[item.job.id] = error
        there = [item for item in items if item.job.id not in unread]
        ends = preprocess_items(self._model, self._journal, there)
        return unread, {item.job.id: end for item, end in zip(there, ends, strict=True)}


def _lower_priority() -> None:
    """Let this thread run behind those of the device: one of these that waits for a core holds up all the others.

    Measured with SqueezeNet on two cores: 6.5 % more images a second. Not so in a worker that serves: beside other
    processes' load its decoding would starve. Linux alone has priorities by thread.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE_INCREMENT)
