"""One batch on the device: run together; where that fails, parted until who fails is alone. Nobody shares a fate.

Answers are made of outputs here too (`show`): at once by our tasks, later and in another thread by a user's own.
"""

import time
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import orjson

from batching.collation import Arrays, fold, unfold
from batching.memory_limits import Ceilings
from jobs.contract.lifecycle import State
from model_runtime.engine.onnx_engine import Fault, RunFailed, Stop, fault_of
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import BlackBox
from worker.execution import outcomes
from worker.execution.inline_runs import ShortRuns
from worker.execution.pending_items import Ended, Rider


class DeviceLost(Exception):
    """The device runs nothing any more in this process."""


class Ran(NamedTuple):
    """A rider whose outputs, without the batch dimension, are still to be shown. Times in ms."""

    rider: Rider
    outputs: Arrays
    batch_ms: float
    infer_ms: float
    batch_size: int


class Bench(NamedTuple):
    """What a run works with."""

    model: Model
    ceilings: Ceilings
    box: BlackBox
    short_runs: ShortRuns


class BatchRun:
    """A batch of one group. `stop` ends it early, from any thread."""

    def __init__(self, bench: Bench, group: Hashable, riders: Sequence[Rider]) -> None:
        self.riders, self.stop = riders, Stop()
        self._group, (self._model, self._ceilings, self._box, _) = group, bench

    def __call__(self) -> list[Ended | Ran]:
        """Run to the end, blocking; one entry per rider, a Ran where a user's own code is to show its outputs.

        Raises DeviceLost, and then they stay in the black box.
        """
        ended = self._run(self.riders)
        self._box.let_go()
        return ended

    def _run(self, riders: Sequence[Rider], *, known_bad: bool = False) -> list[Ended | Ran]:
        """Run some riders. `known_bad`: together they fail for certain, so they are parted unrun."""
        fault: Fault = "input"
        if not known_bad or len(riders) == 1:
            ended = self._attempt(riders)
            if isinstance(ended, list):
                return ended
            fault = ended
        middle = len(riders) // 2
        first = self._run(riders[:middle])
        # Where the first half did well, the other is at fault: running it whole would only show that again. Unless it
        # was memory: then each half may do well, only not both at once.
        well = all(isinstance(one, Ran) or one.outcome.state == State.SUCCEEDED for one in first)
        return first + self._run(riders[middle:], known_bad=well and fault == "input")

    def _attempt(self, riders: Sequence[Rider]) -> list[Ended | Ran] | Fault:
        """Run them together: how they ended, or the fault that parting them may tell more about."""
        self._box.hold([rider.job.claim for rider in riders])
        started = time.monotonic()
        try:
            seats = self._seats(riders)
            rows = self._model.run(fold([rider.arrays for rider in riders], seats), self.stop)
            outputs = unfold(rows, len(riders), seats)
        except Exception as error:  # noqa: BLE001 (a runtime's errors derive from Exception only)
            return self._judge(riders, error)
        infer_ms = (time.monotonic() - started) * 1000
        ran = [
            Ran(rider, output, self._waited_ms(rider, started), infer_ms, len(riders))
            for rider, output in zip(riders, outputs, strict=True)
        ]
        return [*ran] if self._model.own_task else [show(self._model, one) for one in ran]

    @staticmethod
    def _waited_ms(rider: Rider, started: float) -> float:
        return max(0.0, (started - rider.claimed_at) * 1000 - rider.decode_ms)

    def _seats(self, riders: Sequence[Rider]) -> int:
        """How many rows they run with: padded to a bucket, but not beyond what memory has had room for."""
        seats = self._model.seats(len(riders))
        if seats > len(riders) and seats > self._ceilings.of(self._group, time.monotonic()):
            return len(riders)
        return seats

    def _judge(self, riders: Sequence[Rider], error: Exception) -> list[Ended | Ran] | Fault:
        fault = error.fault if isinstance(error, RunFailed) else fault_of(error)
        if fault == "device":
            raise DeviceLost(str(error)) from error
        now = time.monotonic()
        if fault == "stopped":
            return [outcomes.overdue(one) if one.expires_at <= now else outcomes.unrun(one) for one in riders]
        if fault == "memory" and self._seats(riders) > len(riders):  # there may be room for them without empty seats
            self._ceilings.too_many(self._group, 2 * len(riders), now)
        if len(riders) == 1:
            return [outcomes.of_error(self._model, riders[0], error, "run")]
        if fault == "memory":
            self._ceilings.too_many(self._group, len(riders), now)
        return fault


def show(model: Model, ran: Ran) -> Ended:
    """Make the answer of one rider's outputs; what goes wrong with it is its own."""
    rider = ran.rider
    try:
        body = orjson.dumps(model.present(ran.outputs, rider.parameters))
    except BaseException as error:  # noqa: BLE001 (a task of the user's own may do anything)
        return outcomes.of_error(model, rider, error, "show")
    return Ended(rider, rider.outcome(State.SUCCEEDED, body, ran.batch_ms, ran.infer_ms, ran.batch_size))
