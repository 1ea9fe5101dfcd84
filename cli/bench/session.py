"""Runs the rounds of a measurement; each measures the raw model first and then every load of the service.

An interrupted measurement keeps the figures so far.
"""

import asyncio
import gc
import importlib
import importlib.util
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cli.bench.errors import CannotMeasure
from cli.bench.load import accept_burst, closed_loop, open_loop
from cli.bench.load.answer_counter import ANSWER_TIMEOUT_S
from cli.bench.load.connection import Address, close_connection, connect
from cli.bench.load.inputs import Inputs
from cli.bench.load.service_cpu import ServiceCpu
from cli.bench.load.submit_modes import Exchange, build_exchange
from cli.bench.load.target import Target
from cli.bench.load_levels import WAIT, LoadLevel, list_load_levels
from cli.bench.statistics import LoadSummary, RawRound, RawSummary, Slice, summarise_load, summarise_raw
from cli.extras import missing_packages

if TYPE_CHECKING:
    from cli.bench.baseline import RawBaseline

PrintLine = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MeasurementPlan:
    """The options that say what to measure."""

    mode: Sequence[str]
    concurrency: Sequence[int]
    rate: Sequence[float]
    bulk_size: int
    connections: int
    seconds: float
    rounds: int
    models_dir: Path


@dataclass(slots=True)
class BenchSession:
    """The state and results of a measurement. `no_raw`: why there is no raw baseline, or empty."""

    target: Target
    inputs: Inputs
    plan: MeasurementPlan
    cpu: ServiceCpu
    raw_side: "RawBaseline | None" = None
    no_raw: str = ""
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    raws: list[RawRound] = field(default_factory=list)
    slices: dict[LoadLevel, list[Slice]] = field(default_factory=dict)
    is_complete: bool = False

    def prepare(self, say: PrintLine) -> None:
        """Send every input and mode once, and load the raw baseline. Raises CannotMeasure."""
        target, inputs = self.target, self.inputs
        say(f"trying {len(inputs.bodies)} inputs on model {target.model} at {target.address}")
        single = build_exchange(WAIT, target, inputs, 1)
        for name, body in zip(inputs.names, single.requests, strict=True):
            _run(check_request(target.address, single, body, name))
        for mode in self.plan.mode:
            self.exchanges[mode] = exchange = build_exchange(mode, target, inputs, self.plan.bulk_size)
            _run(check_request(target.address, exchange, exchange.requests[0], f"--mode {mode}"))
        say("loading the same model for the raw baseline")
        try:
            self.raw_side = _open_raw(self.plan.models_dir, target, inputs)
        except CannotMeasure as error:
            self.no_raw = str(error)
            say(f"no raw baseline: {error}")

    def run(self, say: PrintLine) -> None:
        """Run all rounds. Raises CannotMeasure if no job succeeded."""
        gc.collect()
        gc.freeze()  # a full collection over the imported modules would show in p99
        try:
            self.cpu.settle()
            for number in range(1, self.plan.rounds + 1):
                self._run_round(f"round {number} of {self.plan.rounds}", say)
        finally:
            gc.unfreeze()
        if not any(part.in_time for slices in self.slices.values() for part in slices):
            reason = self.first_problem() or "no answer in time; increase --seconds"
            raise CannotMeasure(f"no job succeeded. First problem: {reason}")
        self.is_complete = True

    def raw(self) -> RawSummary | None:
        return summarise_raw(self.raws) if self.raws else None

    def rows(self) -> list[LoadSummary]:
        return [summarise_load(slices, self.raws) for slices in self.slices.values()]

    def first_problem(self) -> str:
        """Return the first refusal or failure, or an empty text."""
        problems = (part.first_problem for slices in self.slices.values() for part in slices)
        return next(filter(None, problems), "")

    def _run_round(self, name: str, say: PrintLine) -> None:
        plan = self.plan
        if self.raw_side is not None:
            self.raws.append(self.raw_side.measure(plan.seconds))
            rates = ", ".join(f"batch {size}: {rate:.0f}/s" for size, rate in self.raws[-1].rates.items())
            say(f"{name}: raw {rates}")
        for load in list_load_levels(plan.mode, plan.concurrency, plan.rate):
            before = self.cpu.read()
            result = _run(self._measure(load))
            self.slices.setdefault(load, []).append(result)
            result.cpu = self.cpu.since(before)
            kinds = {"refused": result.refused.total(), "failed": result.failures.total(), "unsent": result.unsent}
            problems = "".join(f", {count} {kind}" for kind, count in kinds.items() if count)
            say(f"{name}: {load}: {result.throughput:.0f}/s{problems}")

    async def _measure(self, load: LoadLevel) -> Slice:
        address, exchange, seconds = self.target.address, self.exchanges[load.mode], self.plan.seconds
        if load.rate is not None:
            return await open_loop.measure(address, exchange, load, seconds, self.plan.connections)
        result = await closed_loop.measure(address, exchange, load, seconds)
        if exchange.submit_only:
            await accept_burst.measure_accept_rate(address, exchange, result, seconds)
        return result


async def check_request(address: Address, exchange: Exchange, request: bytes, name: str) -> None:
    """Send a request. Raises CannotMeasure if the response is not a result."""
    try:
        connection = await connect(address)
    except OSError as error:
        raise CannotMeasure(f"cannot reach the service at {address}: {error}") from error
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            done = await exchange.send(connection, request)
    except TimeoutError as error:
        raise CannotMeasure(f"{address} did not answer within {ANSWER_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise CannotMeasure(f"{address} broke the connection: {error}") from error
    finally:
        await close_connection(connection)
    for outcome in done.outcomes:
        if outcome.view is None:
            raise CannotMeasure(f"the service has no result for {name}: {outcome.problem}")


def _open_raw(models_dir: Path, target: Target, inputs: Inputs) -> "RawBaseline":
    if hint := missing_packages("cpu", "onnxruntime"):
        raise CannotMeasure(f"the raw baseline {hint}")
    baseline: RawBaseline = importlib.import_module("cli.bench.baseline").open_raw_baseline(models_dir, target, inputs)
    return baseline


def _run(measurement: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, with uvloop if it is installed, as in the service."""
    factory = importlib.import_module("uvloop").new_event_loop if importlib.util.find_spec("uvloop") else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_cancellable(measurement))


async def _cancellable(measurement: Coroutine[Any, Any, T]) -> T:
    result = await measurement
    await asyncio.sleep(0)  # delivers the cancellation of a Ctrl-C during the last step
    return result
