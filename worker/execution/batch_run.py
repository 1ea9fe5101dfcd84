"""One batch on the device: run together; where that fails, parted until who fails is alone. Nobody shares a fate.

Answers are made of outputs here too (`show`): at once by our tasks, later and in another thread by a user's own.
"""

import time
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import orjson

from batching.collation import Arrays, split_outputs, stack_items
from batching.memory_limits import MemoryLimits
from jobs.contract.lifecycle import State
from model_runtime.engine.onnx_engine import Fault, RunFailed, Stop, classify_error
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution import outcomes
from worker.execution.inline_runs import InlineRunPolicy
from worker.execution.pending_items import CompletedItem, WorkItem


class DeviceLost(Exception):
    """The device runs nothing any more in this process."""


class RunOutput(NamedTuple):
    """A rider whose outputs, without the batch dimension, are still to be shown. Times in ms."""

    item: WorkItem
    outputs: Arrays
    batch_ms: float
    infer_ms: float
    batch_size: int


class RunContext(NamedTuple):
    """What a run works with."""

    model: Model
    ceilings: MemoryLimits
    journal: InFlightJournal
    inline_policy: InlineRunPolicy


class BatchRun:
    """A batch of one group. `stop` ends it early, from any thread."""

    def __init__(self, run_context: RunContext, group: Hashable, items: Sequence[WorkItem]) -> None:
        self.items, self.stop = items, Stop()
        self._group, (self._model, self._ceilings, self._journal, _) = group, run_context

    def __call__(self) -> list[CompletedItem | RunOutput]:
        """Run to the end, blocking; one entry per rider, a Ran where a user's own code is to show its outputs.

        Raises DeviceLost, and then they stay in the black box.
        """
        completed = self._run(self.items)
        self._journal.clear()
        return completed

    def _run(self, items: Sequence[WorkItem], *, known_bad: bool = False) -> list[CompletedItem | RunOutput]:
        """Run some riders. `known_bad`: together they fail for certain, so they are parted unrun."""
        fault: Fault = "input"
        if not known_bad or len(items) == 1:
            completed = self._run_once(items)
            if isinstance(completed, list):
                return completed
            fault = completed
        middle = len(items) // 2
        first = self._run(items[:middle])
        # Where the first half did well, the other is at fault: running it whole would only show that again. Unless it
        # was memory: then each half may do well, only not both at once.
        well = all(isinstance(one, RunOutput) or one.outcome.state == State.SUCCEEDED for one in first)
        return first + self._run(items[middle:], known_bad=well and fault == "input")

    def _run_once(self, items: Sequence[WorkItem]) -> list[CompletedItem | RunOutput] | Fault:
        """Run them together: how they ended, or the fault that parting them may tell more about."""
        self._journal.record([item.job.claim for item in items])
        started = time.monotonic()
        try:
            padded_size = self._padded_size(items)
            rows = self._model.run(stack_items([item.arrays for item in items], padded_size), self.stop)
            outputs = split_outputs(rows, len(items), padded_size)
        except Exception as error:  # noqa: BLE001 (a runtime's errors derive from Exception only)
            return self._classify(items, error)
        infer_ms = (time.monotonic() - started) * 1000
        ran = [
            RunOutput(item, output, self._waited_ms(item, started), infer_ms, len(items))
            for item, output in zip(items, outputs, strict=True)
        ]
        return [*ran] if self._model.has_custom_task else [postprocess_output(self._model, one) for one in ran]

    @staticmethod
    def _waited_ms(item: WorkItem, started: float) -> float:
        return max(0.0, (started - item.claimed_at) * 1000 - item.decode_ms)

    def _padded_size(self, items: Sequence[WorkItem]) -> int:
        """How many rows they run with: padded to a bucket, but not beyond what memory has had room for."""
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
            return [outcomes.expire_item(one) if one.expires_at <= now else outcomes.requeue_item(one) for one in items]
        if fault == "memory" and self._padded_size(items) > len(
            items
        ):  # there may be room for them without empty seats
            self._ceilings.too_many(self._group, 2 * len(items), now)
        if len(items) == 1:
            return [outcomes.outcome_of_error(self._model, items[0], error, "run")]
        if fault == "memory":
            self._ceilings.too_many(self._group, len(items), now)
        return fault


def postprocess_output(model: Model, ran: RunOutput) -> CompletedItem:
    """Make the answer of one rider's outputs; what goes wrong with it is its own."""
    item = ran.item
    try:
        body = orjson.dumps(model.postprocess(ran.outputs, item.parameters))
    except BaseException as error:  # noqa: BLE001 (a task of the user's own may do anything)
        return outcomes.outcome_of_error(model, item, error, "show")
    return CompletedItem(item, item.outcome(State.SUCCEEDED, body, ran.batch_ms, ran.infer_ms, ran.batch_size))
