"""Runs one batch on the device, bisects it on failure to isolate the failing item, and postprocesses its outputs.

Also postprocesses outputs: small ones of built-in tasks at once, others later and in another thread.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np

from batching.collation import Arrays, CollationError, check_row_count, split_outputs, stack_blocks, stack_items
from batching.memory_limits import MemoryLimits
from jobs.contract.errors import Refused
from jobs.contract.lifecycle import State
from model_runtime.engine.onnx_engine import Fault, RunFailed, Stop, classify_error
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution import outcomes
from worker.execution.inline_runs import InlineRunPolicy
from worker.execution.pending_items import SIZE, CompletedItem, WorkItem
from worker.execution.row_joiner import RowJoiner

_IS_STACKED: Final = attrgetter("is_stacked")


class DeviceLost(Exception):
    """The device cannot run anything more in this process."""


class RunOutput(NamedTuple):
    """Outputs of an item, without the batch dimension, before postprocessing. Times in ms."""

    item: WorkItem
    outputs: Arrays
    batch_ms: float
    infer_ms: float
    batch_size: int


class RunContext(NamedTuple):
    """The model of a run, and the state shared by the model's runs. Outputs are cut into chunks of `chunk_bytes`.

    `record` gets each batch that has run, what closed it, and its seconds.
    """

    model: Model
    ceilings: MemoryLimits
    journal: InFlightJournal
    inline_policy: InlineRunPolicy
    chunk_bytes: int = 1 << 20
    record: Callable[["BatchRun", str, float], None] | None = None

    @property
    def name(self) -> str:
        """Return the name of the model version, `<name> <version>`."""
        return f"{self.model.name} {self.model.version}"


class BatchRun:
    """One batch of one group. `stop` ends the run early, from any thread; None: the run cannot be stopped.

    `size`: how many rows it has; an item without rows counts as one.
    """

    def __init__(self, run_context: RunContext, group: Hashable, items: Sequence[WorkItem]) -> None:
        self.items, self.size = items, sum(map(SIZE, items))
        self.stop: Stop | None = None
        self.cpu_s = 0.0  # of the thread that ran it
        self.batches: list[tuple[int, float]] = []  # size and time in ms of each that succeeded
        self.splits = 0  # bisections
        self.work = self.padding = 0  # rows, or units of length, that succeeded; how many of them were padding
        self._group, self._context = group, run_context
        self._model, self._ceilings, self._journal = run_context[:3]

    def __call__(self) -> list[CompletedItem | RunOutput]:
        """Run the batch, blocking; returns one entry per item: a RunOutput if it must be postprocessed in a thread.

        Jobs of several rows have one entry, with their last row, or one for each row that failed.
        If it raises DeviceLost, the items stay in the in-flight journal.
        """
        began = time.thread_time()
        completed = self._run(self.items, self.size)
        self._journal.clear()
        self.cpu_s = time.thread_time() - began
        return completed

    def _run(self, items: Sequence[WorkItem], size: int, *, known_bad: bool = False) -> list[CompletedItem | RunOutput]:
        """Run items of `size` rows. `known_bad`: together they fail for certain, so they are bisected without a run."""
        fault: Fault = "input"
        if not known_bad or size == 1:
            completed = self._run_once(items, size)
            if isinstance(completed, list):
                return completed
            fault = completed
        self.splits += 1
        middle = size // 2
        left, right = _cut(items, middle)
        first = self._run(left, middle)
        # If the first half succeeded, the fault is in the other half, and all of it would only fail again. After
        # an out-of-memory error each half may succeed.
        succeeded = all(isinstance(end, RunOutput) or end.outcome.state == State.SUCCEEDED for end in first)
        return first + self._run(right, size - middle, known_bad=succeeded and fault == "input")

    def _run_once(self, items: Sequence[WorkItem], size: int) -> list[CompletedItem | RunOutput] | Fault:
        """Run items together; returns their results, or a fault that bisection may attribute to one item."""
        self._journal.record([item.job.claim for item in items])
        started = time.monotonic()
        try:
            padded_size = self._padded_size(size)
            rows = self._model.run(self._stack(items, padded_size), self.stop)
            check_row_count(rows, size, padded_size)
        except Exception as error:  # noqa: BLE001 (a runtime may raise any Exception)
            return self._classify(items, size, error)
        infer_ms = (time.monotonic() - started) * 1000
        started_ms = started * 1000
        self.batches.append((size, infer_ms))
        self._count_padding(items, size, padded_size)

        def ran(item: WorkItem, outputs: Arrays) -> RunOutput:
            wait_ms = max(0.0, started_ms - item.claimed_at * 1000 - item.decode_ms)
            return RunOutput(item, outputs, wait_ms, infer_ms, size)

        if bodies := self._encode_together(items, rows, padded_size):
            ends = [
                self._end_encoded(ran(item, {}), body, started_ms) for item, body in zip(items, bodies, strict=True)
            ]
            return [end for end in ends if end is not None]
        outputs = [ran(item, own) for item, own in zip(items, self._split(items, rows, padded_size), strict=True)]
        if self._model.has_custom_task:
            return [*outputs]
        has_large = self._model.has_large_output
        joined = [self._join(each, started_ms) for each in outputs]
        return [
            end if isinstance(end, CompletedItem) or has_large(end.outputs) else postprocess_output(self._context, end)
            for end in joined
            if end is not None
        ]

    def _count_padding(self, items: Sequence[WorkItem], size: int, padded_size: int) -> None:
        """Count the rows of a run, or with lengths their units, and how many of them were padding."""
        padding, work, own = self._model.padding, padded_size, size
        if padding is not None and padding.is_used:
            lengths = [padding.length_of(item.arrays) for item in items]
            work, own = padded_size * padding.padded_length(max(lengths)), sum(lengths)
        self.work += work
        self.padding += work - own

    def _stack(self, items: Sequence[WorkItem], padded_size: int) -> Arrays:
        arrays = [item.arrays for item in items]
        if not _has_blocks(items):
            return stack_items(arrays, padded_size, self._model.padding)
        blocks = [
            own if item.is_stacked else {name: array[np.newaxis] for name, array in own.items()}
            for item, own in zip(items, arrays, strict=True)
        ]
        return stack_blocks(blocks, padded_size)

    def _split(self, items: Sequence[WorkItem], rows: Arrays, padded_size: int) -> Sequence[Arrays]:
        """Return the outputs of each item, stacked as its inputs are, without those of padding."""
        if _has_blocks(items):
            return [*_split_blocks(items, rows)]
        split, padding = split_outputs(rows, len(items), padded_size), self._model.padding
        if padding is None or not padding.is_used:
            return split
        return [padding.cut(own, padding.length_of(item.arrays)) for item, own in zip(items, split, strict=True)]

    def _end_encoded(self, ran: RunOutput, body: bytes, started_ms: float) -> CompletedItem | RunOutput | None:
        """Return the outcome of an item whose answer is encoded, or of its job; None while rows are missing."""
        if ran.item.joiner is not None:
            return self._join(ran, started_ms, body)
        outcome = ran.item.outcome(State.SUCCEEDED, body, ran.batch_ms, ran.infer_ms, ran.batch_size)
        return CompletedItem(ran.item, outcome)

    def _join(self, ran: RunOutput, started_ms: float, answer: bytes | None = None) -> CompletedItem | RunOutput | None:
        """Return the outputs of an item, or of all rows of its job; None while rows are missing.

        `answer`: of the row, if it is encoded.
        """
        item, joiner = ran.item, ran.item.joiner
        if joiner is None:
            return ran
        try:
            since_ms = started_ms - item.claimed_at * 1000
            if not self._add_rows(joiner, ran, since_ms, answer):
                return None
        except Exception as error:  # noqa: BLE001 (a task may raise anything)
            is_of_all = isinstance(error, Refused) and error.code == "output_too_large"
            action = "run" if isinstance(error, CollationError) else "postprocess"
            return outcomes.outcome_of_error(self._model, replace(item, row=None) if is_of_all else item, error, action)
        whole = item.whole(joiner.decode_ms)
        if self._model.stacks_rows:
            return RunOutput(whole, joiner.outputs, joiner.batch_ms, joiner.infer_ms, joiner.batch_size)
        return self._joined_answers(whole, joiner)

    def _add_rows(self, joiner: RowJoiner, ran: RunOutput, since_ms: float, answer: bytes | None) -> bool:
        """Add an item's outputs, or its answer; returns whether all rows are there. Raises as the task does."""
        row = ran.item.row or 0
        if ran.item.is_stacked:
            return joiner.add_rows(row, ran.item.size, ran.outputs, since_ms, ran.infer_ms, ran.batch_size)
        if self._model.stacks_rows:
            return joiner.add(row, ran.outputs, since_ms, ran.infer_ms, ran.batch_size)
        if answer is None:
            answer = b"".join(self._model.encode(ran.outputs, ran.item.parameters, self._context.chunk_bytes))
        return joiner.add_answer(row, answer, since_ms, ran.infer_ms, ran.batch_size)

    def _joined_answers(self, whole: WorkItem, joiner: RowJoiner) -> CompletedItem:
        body, size = joiner.joined_answers(), self._context.chunk_bytes
        times = (joiner.batch_ms, joiner.infer_ms, joiner.batch_size)
        outcome = whole.outcome(State.SUCCEEDED, body[-(len(body) % size or size) :], *times)
        chunks = [body[first : first + size] for first in range(0, len(body), size)]
        return CompletedItem(whole, outcome._replace(chunks=chunks) if len(chunks) > 1 else outcome)

    def _encode_together(self, items: Sequence[WorkItem], rows: Arrays, padded_size: int) -> list[bytes] | None:
        """Return the encoded outputs of all items; None if they must be postprocessed one by one."""
        if self._model.has_custom_task or (self._model.stacks_rows and any(item.joiner for item in items)):
            return None
        if padded_size > len(items):
            rows = {name: array[: len(items)] for name, array in rows.items()}
        return self._model.encode_batch(rows, [item.parameters for item in items], self._context.chunk_bytes)

    def _padded_size(self, size: int) -> int:
        """Return how many rows `size` rows run with: padded to a bucket, unless memory had no room for as many."""
        padded_size = self._model.padded_size(size)
        if padded_size > size and padded_size > self._ceilings.of(self._group, time.monotonic()):
            return size
        return padded_size

    def _classify(
        self, items: Sequence[WorkItem], size: int, error: Exception
    ) -> list[CompletedItem | RunOutput] | Fault:
        fault = error.fault if isinstance(error, RunFailed) else classify_error(error)
        if fault == "device":
            raise DeviceLost(str(error)) from error
        now = time.monotonic()
        if fault == "stopped":
            return [outcomes.expire_item(i) if i.expires_at <= now else outcomes.requeue_item(i) for i in items]
        if fault == "memory" and self._padded_size(size) > size:  # they may fit without padding rows
            self._ceilings.too_many(self._group, 2 * size, now)
        if size == 1:
            return [outcomes.outcome_of_error(self._model, items[0], error, "run")]
        if fault == "memory":
            self._ceilings.too_many(self._group, size, now)
        return fault


def _has_blocks(items: Sequence[WorkItem]) -> bool:
    return True in map(_IS_STACKED, items)


def _cut(items: Sequence[WorkItem], size: int) -> tuple[list[WorkItem], list[WorkItem]]:
    """Return the items with the first `size` rows, and the others; an item that has rows of both is cut."""
    left: list[WorkItem] = []
    for at, item in enumerate(items):
        if item.size > size:
            first, rest = item.cut(size) if size else (None, item)
            return [*left, *filter(None, [first])], [rest, *items[at + 1 :]]
        left.append(item)
        size -= item.size
    return left, []


def _split_blocks(items: Sequence[WorkItem], rows: Arrays) -> Iterator[Arrays]:
    at = 0
    for item in items:
        own = slice(at, at + item.size) if item.is_stacked else at
        yield {name: array[own, ...] for name, array in rows.items()}
        at += item.size


def postprocess_output(run_context: RunContext, ran: RunOutput) -> CompletedItem:
    """Postprocess and encode the outputs of one item; an error is the item's own."""
    item, model = ran.item, run_context.model
    try:
        *chunks, body = model.encode(ran.outputs, item.parameters, run_context.chunk_bytes)
    except BaseException as error:  # noqa: BLE001 (a custom task may raise anything)
        return outcomes.outcome_of_error(model, item, error, "postprocess")
    outcome = item.outcome(State.SUCCEEDED, body, ran.batch_ms, ran.infer_ms, ran.batch_size)
    return CompletedItem(item, outcome._replace(chunks=[*chunks, body]) if chunks else outcome)
