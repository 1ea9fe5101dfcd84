"""The rounds of one measurement, raw and service in turn: raw, c=1, c=16, then raw again.

Keeps what was measured so far, so that a measurement that is broken off still has something to show.
"""

import asyncio
import gc
import importlib
import importlib.util
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scripts.bench.closed_loop import measure, request, try_once
from scripts.bench.errors import CannotMeasure
from scripts.bench.figures import Raw, RawRound, Row, Slice, raw_medians, row
from scripts.bench.inputs import Inputs
from scripts.bench.target import Target

if TYPE_CHECKING:
    from scripts.bench.raw import RawSide

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for."""

    concurrencies: Sequence[int]
    seconds: float
    rounds: int
    models_dir: Path


@dataclass(slots=True)
class Session:
    """`no_raw`: why there is no raw side, empty where there is one."""

    target: Target
    inputs: Inputs
    plan: Plan
    raw_side: "RawSide | None" = None
    no_raw: str = ""
    raws: list[RawRound] = field(default_factory=list)
    slices: dict[int, list[Slice]] = field(default_factory=dict)
    is_complete: bool = False

    def prepare(self, say: Say) -> None:
        """Loads the raw side and tries every input once; raises CannotMeasure."""
        say(f"trying {len(self.inputs.bodies)} inputs on model {self.target.model} at {self.target.address}")
        for name, body in zip(self.inputs.names, self._requests(), strict=True):
            _run(try_once(self.target.address, body, name))
        say("loading the same model for the raw side")
        try:
            self.raw_side = _open_raw(self.plan.models_dir, self.target, self.inputs)
        except CannotMeasure as error:
            self.no_raw = str(error)
            say(f"no raw side: {error}")

    def run(self, say: Say) -> None:
        """All rounds; raises CannotMeasure where not one request was answered."""
        gc.collect()
        gc.freeze()  # a full collection over the runtime's modules would be seen in p99
        try:
            for number in range(1, self.plan.rounds + 1):
                self._run_round(f"round {number} of {self.plan.rounds}", say)
        finally:
            gc.unfreeze()
        if not any(one.latencies_ms for slices in self.slices.values() for one in slices):
            problems = [one.first_problem for slices in self.slices.values() for one in slices if one.first_problem]
            reason = problems[0] if problems else "none came in time; take more --seconds"
            raise CannotMeasure(f"not one answer was a result. The first problem: {reason}")
        self.is_complete = True

    def raw(self) -> Raw | None:
        return raw_medians(self.raws) if self.raws else None

    def rows(self) -> list[Row]:
        """One for each concurrency measured so far."""
        return [row(slices, self.raws) for slices in self.slices.values()]

    def first_problem(self) -> str:
        """Of those that were counted as failures."""
        return next((one.first_problem for slices in self.slices.values() for one in slices if one.first_problem), "")

    def _run_round(self, name: str, say: Say) -> None:
        if self.raw_side is not None:
            self.raws.append(self.raw_side.measure(self.plan.seconds))
            rates = ", ".join(f"batch {size}: {rate:.0f}/s" for size, rate in self.raws[-1].rates.items())
            say(f"{name}: raw {rates}")
        for concurrency in self.plan.concurrencies:
            result = _run(measure(self.target.address, self._requests(), concurrency, self.plan.seconds))
            self.slices.setdefault(concurrency, []).append(result)
            failed = f", {result.failures.total()} failed" if result.failures else ""
            say(f"{name}: c={concurrency}: {result.throughput:.0f}/s{failed}")

    def _requests(self) -> list[bytes]:
        pairs = zip(self.inputs.content_types, self.inputs.bodies, strict=True)
        return [request(self.target.address, self.target.model, kind, body) for kind, body in pairs]


def _open_raw(models_dir: Path, target: Target, inputs: Inputs) -> "RawSide":
    if importlib.util.find_spec("onnxruntime") is None:
        raise CannotMeasure('ONNX Runtime is not installed here: pip install "jitney[cpu]", or "jitney[gpu]"')
    side: RawSide = importlib.import_module("scripts.bench.raw").open_raw(models_dir, target, inputs)
    return side


def _run(measurement: Coroutine[Any, Any, T]) -> T:
    """On uvloop where it is installed, as the service itself."""
    factory = importlib.import_module("uvloop").new_event_loop if importlib.util.find_spec("uvloop") else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(measurement)
