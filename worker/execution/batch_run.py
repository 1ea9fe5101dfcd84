"""Runs one batch on the device, bisects it on failure to isolate the failing item, and postprocesses its outputs.

Also postprocesses outputs: small ones of built-in tasks at once, others later and in another thread.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple

from batching.collation import Arrays, CollationError, check_row_count, split_outputs, stack_items
from batching.memory_limits import MemoryLimits
from jobs.contract.errors import Refused
from jobs.contract.lifecycle import State
from model_runtime.engine.onnx_engine import Fault, RunFailed, Stop, classify_error
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution import outcomes
from worker.execution.inline_runs import InlineRunPolicy
from worker.execution.pending_items import CompletedItem, WorkItem
from worker.execution.row_joiner import RowJoiner

_JOINER: Final = attrgetter("joiner")


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

    `observe` gets the sizes and the times of batches (jobs/metrics/histograms.py).
    """

    model: Model
    ceilings: MemoryLimits
    journal: InFlightJournal
    inline_policy: InlineRunPolicy
    chunk_bytes: int = 1 << 20
    observe: Callable[[str, Sequence[float]], None] | None = None

    @property
    def name(self) -> str:
        """Return the name of the model version, `<name> <version>`."""
        return f"{self.model.name} {self.model.version}"


class BatchRun:
    """One batch of one group. `stop` ends the run early, from any thread; None: the run cannot be stopped."""

    def __init__(
        self, run_context: RunContext, group: Hashable, items: Sequence[WorkItem], stop: Stop | None = None
    ) -> None:
        self.items, self.stop = items, stop
        self.cpu_s = 0.0  # of the thread that ran it
        self.batches: list[tuple[int, float]] = []  # size and time in ms of each that succeeded
        self._group, self._context = group, run_context
        self._model, self._ceilings, self._journal = run_context[:3]

    def __call__(self) -> list[CompletedItem | RunOutput]:
        """Run the batch, blocking; returns one entry per item: a RunOutput if it must be postprocessed in a thread.

        Jobs of several rows have one entry, with their last row, or one for each row that failed.
        If it raises DeviceLost, the items stay in the in-flight journal.
        """
        began = time.thread_time()
        completed = self._run(self.items)
        self._journal.clear()
        self.cpu_s = time.thread_time() - began
        return completed

    def _run(self, items: Sequence[WorkItem], *, known_bad: bool = False) -> list[CompletedItem | RunOutput]:
        """Run some items. `known_bad`: together they fail for certain, so they are bisected without a run."""
        fault: Fault = "input"
        if not known_bad or len(items) == 1:
            completed = self._run_once(items)
            if isinstance(completed, list):
                return completed
            fault = completed
        middle = len(items) // 2
        first = self._run(items[:middle])
        # If the first half succeeded, the fault is in the other half, and all of it would only fail again. After
        # an out-of-memory error each half may succeed.
        succeeded = all(isinstance(end, RunOutput) or end.outcome.state == State.SUCCEEDED for end in first)
        return first + self._run(items[middle:], known_bad=succeeded and fault == "input")

    def _run_once(self, items: Sequence[WorkItem]) -> list[CompletedItem | RunOutput] | Fault:
        """Run items together; returns their results, or a fault that bisection may attribute to one item."""
        self._journal.record([item.job.claim for item in items])
        started = time.monotonic()
        try:
            padded_size = self._padded_size(items)
            stacked = stack_items([item.arrays for item in items], padded_size, self._model.padding)
            rows = self._model.run(stacked, self.stop)
            check_row_count(rows, len(items), padded_size)
        except Exception as error:  # noqa: BLE001 (a runtime may raise any Exception)
            return self._classify(items, error)
        infer_ms = (time.monotonic() - started) * 1000
        started_ms, size = started * 1000, len(items)
        self.batches.append((size, infer_ms))

        def ran(item: WorkItem, outputs: Arrays) -> RunOutput:
            wait_ms = max(0.0, started_ms - item.claimed_at * 1000 - item.decode_ms)
            return RunOutput(item, outputs, wait_ms, infer_ms, size)

        if bodies := self._encode_together(items, rows, padded_size):
            ends = [
                self._end_encoded(ran(item, {}), body, started_ms) for item, body in zip(items, bodies, strict=True)
            ]
            return [end for end in ends if end is not None]
        outputs = self._split(items, rows, padded_size)
        if self._model.has_custom_task:
            return [ran(items[at], own) for at, _, own in outputs]
        has_large = self._model.has_large_output
        joined = [self._join(ran(items[at], own), started_ms, count=count) for at, count, own in outputs]
        return [
            end if isinstance(end, CompletedItem) or has_large(end.outputs) else postprocess_output(self._context, end)
            for end in joined
            if end is not None
        ]

    def _split(self, items: Sequence[WorkItem], rows: Arrays, padded_size: int) -> Sequence[tuple[int, int, Arrays]]:
        """Return the outputs of each item, without those of padding: its index, 0, and its outputs.

        Those of rows of one job that follow each other are returned together, stacked: the index of the first of them,
        their number, and their outputs.
        """
        padding = self._model.padding
        is_padded = padding is not None and padding.is_used
        if self._model.stacks_rows and not is_padded and any(item.joiner for item in items):
            return [*_split_by_job(items, rows)]
        split: Sequence[Arrays] = split_outputs(rows, len(items), padded_size)
        if padding is not None and is_padded:
            split = [padding.cut(own, padding.length_of(item.arrays)) for item, own in zip(items, split, strict=True)]
        return [(at, 0, own) for at, own in enumerate(split)]

    def _end_encoded(self, ran: RunOutput, body: bytes, started_ms: float) -> CompletedItem | RunOutput | None:
        """Return the outcome of an item whose answer is encoded, or of its job; None while rows are missing."""
        if ran.item.joiner is not None:
            return self._join(ran, started_ms, body)
        outcome = ran.item.outcome(State.SUCCEEDED, body, ran.batch_ms, ran.infer_ms, ran.batch_size)
        return CompletedItem(ran.item, outcome)

    def _join(
        self, ran: RunOutput, started_ms: float, answer: bytes | None = None, *, count: int = 0
    ) -> CompletedItem | RunOutput | None:
        """Return the outputs of an item, or of all rows of its job; None while rows are missing.

        `answer`: of the row, if it is encoded. `count`: number of rows whose outputs are stacked; 0: they are not.
        """
        item, joiner = ran.item, ran.item.joiner
        if joiner is None:
            return ran
        try:
            since_ms = started_ms - item.claimed_at * 1000
            if count:
                times = (since_ms, ran.infer_ms, ran.batch_size)
                is_whole = joiner.add_rows(item.row or 0, count, ran.outputs, *times)
            else:
                is_whole = self._add_row(joiner, ran, since_ms, answer)
            if not is_whole:
                return None
        except Exception as error:  # noqa: BLE001 (a task may raise anything)
            is_of_all = isinstance(error, Refused) and error.code == "output_too_large"
            action = "run" if isinstance(error, CollationError) else "postprocess"
            return outcomes.outcome_of_error(self._model, replace(item, row=None) if is_of_all else item, error, action)
        whole = replace(item, row=None, decode_ms=joiner.decode_ms)
        if self._model.stacks_rows:
            return RunOutput(whole, joiner.outputs, joiner.batch_ms, joiner.infer_ms, joiner.batch_size)
        return self._joined_answers(whole, joiner)

    def _add_row(self, joiner: RowJoiner, ran: RunOutput, since_ms: float, answer: bytes | None) -> bool:
        """Add the outputs of a row, or its answer; returns whether all rows are there. Raises as the task does."""
        row = ran.item.row or 0
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

    def _padded_size(self, items: Sequence[WorkItem]) -> int:
        """Return how many rows these items run with: padded to a bucket, unless memory had no room for as many rows."""
        padded_size = self._model.padded_size(len(items))
        if padded_size > len(items) and padded_size > self._ceilings.of(self._group, time.monotonic()):
            return len(items)
        return padded_size

    def _classify(self, items: Sequence[WorkItem], error: Exception) -> list[CompletedItem | RunOutput] | Fault:
        fault = error.fault if isinstance(error, RunFailed) else classify_error(error)
        if fault == "device":
            raise DeviceLost(str(error)) from error
        now = time.monotonic()
        if fault == "stopped":
            return [outcomes.expire_item(i) if i.expires_at <= now else outcomes.requeue_item(i) for i in items]
        if fault == "memory" and self._padded_size(items) > len(items):  # they may fit without padding rows
            self._ceilings.too_many(self._group, 2 * len(items), now)
        if len(items) == 1:
            return [outcomes.outcome_of_error(self._model, items[0], error, "run")]
        if fault == "memory":
            self._ceilings.too_many(self._group, len(items), now)
        return fault


def _split_by_job(items: Sequence[WorkItem], rows: Arrays) -> Iterator[tuple[int, int, Arrays]]:
    """Yield the outputs of jobs, see `BatchRun._split`."""
    at = 0
    for joiner, of_job in groupby(items, _JOINER):
        own = [*of_job]
        if joiner is not None and (own[-1].row or 0) - (own[0].row or 0) == len(own) - 1:
            yield at, len(own), {name: array[at : at + len(own)] for name, array in rows.items()}
        else:
            yield from (
                (row, 0, {name: array[row, ...] for name, array in rows.items()}) for row in range(at, at + len(own))
            )
        at += len(own)


def postprocess_output(run_context: RunContext, ran: RunOutput) -> CompletedItem:
    """Postprocess and encode the outputs of one item; an error is the item's own."""
    item, model = ran.item, run_context.model
    try:
        *chunks, body = model.encode(ran.outputs, item.parameters, run_context.chunk_bytes)
    except BaseException as error:  # noqa: BLE001 (a custom task may raise anything)
        return outcomes.outcome_of_error(model, item, error, "postprocess")
    outcome = item.outcome(State.SUCCEEDED, body, ran.batch_ms, ran.infer_ms, ran.batch_size)
    return CompletedItem(item, outcome._replace(chunks=[*chunks, body]) if chunks else outcome)
