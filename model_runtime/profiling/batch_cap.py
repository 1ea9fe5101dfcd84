"""Measure a model's run time by batch size and choose its batch cap; list the sizes to measure or warm up.

A worker measures briefly when it loads the model, `jitney models profile` for longer, with examples if
there are some and batches of zeros otherwise.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from batching.collation import stack_items
from model_runtime.profiling.profile_store import Latency, StoredProfile
from model_runtime.tensor_spec import Array, TensorSpec

MAX_MEASURED_BATCH: Final = 64  # limit of measured caps; an operator may set a larger one
# On a CPU, the limit for a model whose runs of more rows than that take at most MAX_TINY_RUN_S: there a batch costs
# more outside of its run than in it.
MAX_TINY_BATCH: Final = 512
MAX_TINY_RUN_S: Final = 0.002
# A claim costs more than a run of a tiny model. Jobs that are claimed ahead wait this long at most.
MAX_PREFETCHED_S: Final = 0.004
MAX_PREFETCHED_BATCHES: Final = 4
COST_TOLERANCE: Final = 0.95  # a size is good if the lowest cost per row is at least this share of its own
# Below this run time a larger batch is allowed without a gain, as batches also cost time outside the run
# (docs/explanation/decisions/batch-caps-and-claims.md).
MAX_SHARED_RUN_S: Final = 0.05
ROUNDS: Final = 6
BUDGET_S: Final = 2.0
UNMEASURED_RUN_OVERHEAD: Final = 16.0  # of a model whose runs could not be timed
MAX_LENGTHS_RUN_S: Final = 0.1  # of a batch of items of different lengths
OUTSIDE_RUN_MS: Final = (
    0.75  # what a batch costs in worker, gateway and Redis beside the run (docs/explanation/performance.md)
)
MIN_FITTED: Final = 3  # sizes
MAX_RUN_OVERHEAD: Final = 65_536.0
# Of a profile that an operator asks for:
MAX_RUN_S: Final = 2.0  # stop at the first size whose run takes longer
MIN_RUNS: Final = 5

Run = Callable[[dict[str, Array]], object]
Clock = Callable[[], float]


class Profile(NamedTuple):
    """`cap`: the largest batch. `run_ms`: the shortest run time by batch size, empty if none was measured.

    `cost_ms`: the lowest cost of such a run, CPU time on a CPU.
    `error`: the failure that ended the measurement, if any.
    `stored`: the profiles that `jitney models profile` wrote, for this device and others.
    `measured`: the batch sizes that were run for this profile in this process.
    """

    cap: int
    run_ms: Mapping[int, float]
    error: Exception | None = None
    stored: Sequence[StoredProfile] = ()
    measured: Collection[int] = ()
    cost_ms: Mapping[int, float] = {}


def count_prefetched_batches(profile: Profile) -> int:
    """Return how many of the largest batches a worker claims ahead: more than one where they run at once."""
    run_ms = profile.run_ms.get(profile.cap)
    return 1 if run_ms is None else max(1, min(MAX_PREFETCHED_BATCHES, int(MAX_PREFETCHED_S * 1000 / run_ms)))


class RunTimes(NamedTuple):
    """The times of one run in seconds: `run_s` is wall time, `cost_s` the time of the scarce resource."""

    run_s: float
    cost_s: float


class MeasuredModel(NamedTuple):
    """A model to measure. `clock` and `spent` return seconds; `spent` counts the cost, None: wall time is the cost.

    `examples`: rows to measure with, instead of zeros.
    """

    inputs: Sequence[TensorSpec]
    run: Run
    clock: Clock = time.perf_counter
    spent: Clock | None = None
    examples: Sequence[Mapping[str, Array]] = ()

    def batch(self, rows: int) -> dict[str, Array]:
        """Return a batch of examples, or of zeros."""
        if not self.examples:
            return zero_batch(self.inputs, rows)
        return stack_items([self.examples[at % len(self.examples)] for at in range(rows)])

    def warm_up(self, rows: int) -> None:
        self.run(self.batch(rows))

    def time(self, rows: int) -> RunTimes:
        """Time one run of `rows` rows."""
        batch = self.batch(rows)
        started_at, spent_before = self.clock(), self.spent() if self.spent else 0.0
        self.run(batch)
        run_s = max(1e-9, self.clock() - started_at)
        return RunTimes(run_s, max(1e-9, self.spent() - spent_before) if self.spent else run_s)


def measure_profile(
    model: MeasuredModel, largest: int = MAX_MEASURED_BATCH, largest_tiny: int = MAX_MEASURED_BATCH
) -> Profile:
    """Measure batches of 1, 2, 4, … rows until a larger one brings no gain, and choose the cap.

    On a CPU the cost is CPU time, which other work on the machine changes much less than wall time.
    A model with free dimensions and no examples, or that cannot run on zeros, is not measured: its cap is half of
    `largest`. `largest_tiny`: limit in place of `largest` while a run takes at most MAX_TINY_RUN_S.
    """
    if not model.examples and not all(tensor_spec.is_fixed for tensor_spec in model.inputs):
        return Profile(max(1, largest // 2), {})
    known: dict[int, RunTimes] = {}
    failure: Exception | None = None
    started, size, without_gain = model.clock(), 1, 0
    while (
        _is_allowed(known, size, largest, largest_tiny)
        and _may_gain(known, without_gain)
        and _has_time(known, model.clock() - started)
    ):
        before = lowest_cost(known)
        try:
            model.warm_up(size)
            times = _min_times(model.time(size), model.time(size))
            if size > largest and times.run_s > MAX_TINY_RUN_S:
                break
            known[size] = times
        except Exception as error:  # noqa: BLE001 - it may still serve real rows or smaller batches
            failure = error
            break
        without_gain = 0 if known[size].cost_s / size < before * COST_TOLERANCE else without_gain + 1
        size *= 2
    if not known:
        return Profile(max(1, largest // 2), {}, failure)
    _remeasure(model, known, started + BUDGET_S)
    run_ms = {rows: round(times.run_s * 1000, 4) for rows, times in known.items()}
    cost_ms = {rows: times.cost_s * 1000 for rows, times in known.items()}
    return Profile(choose_cap(known), run_ms, failure, measured=run_ms.keys(), cost_ms=cost_ms)


def choose_cap(known: Mapping[int, RunTimes]) -> int:
    """Return the largest size with a short run among those of nearly the lowest cost per row, or else the smallest."""
    enough = lowest_cost(known) / COST_TOLERANCE
    good = [rows for rows, times in known.items() if times.cost_s / rows <= enough]
    return max([rows for rows in good if known[rows].run_s <= MAX_SHARED_RUN_S], default=min(good))


class LengthCosts(NamedTuple):
    """Costs of a model whose items differ in length, in its unit of length (batching/length_grouping.py).

    `run_overhead`: the fixed cost of a run. `max_cost`: the most of a batch, None: any.
    """

    run_overhead: float = UNMEASURED_RUN_OVERHEAD
    max_cost: float | None = None


def length_costs(profile: Profile, length: int) -> LengthCosts:
    """Return the costs from the profile of batches whose items have this length.

    The cost of a run is taken to be a + b · n · length. The result adds OUTSIDE_RUN_MS to a. Runs of one item are left
    out: they use kernels badly, which would look like a fixed cost. A batch is limited to what runs in
    MAX_LENGTHS_RUN_S, or to the cap if that is more.
    """
    sizes = [size for size in profile.run_ms if size > 1 or len(profile.run_ms) < MIN_FITTED]
    if len(sizes) < 2:
        return LengthCosts()
    fixed, per_unit = _fit_line({size * length: profile.cost_ms[size] for size in sizes})
    _, run_ms_per_unit = _fit_line({size * length: profile.run_ms[size] for size in sizes})
    if per_unit <= 0 or run_ms_per_unit <= 0:  # all sizes cost the same
        return LengthCosts(run_overhead=MAX_RUN_OVERHEAD)
    run_overhead = min(max((fixed + OUTSIDE_RUN_MS) / per_unit, 0.0), MAX_RUN_OVERHEAD)
    return LengthCosts(run_overhead, max(profile.cap * length, MAX_LENGTHS_RUN_S * 1000 / run_ms_per_unit))


def _fit_line(values: Mapping[float, float]) -> tuple[float, float]:
    """Return the value at 0 and the slope of the line with the smallest relative errors."""
    at, expected = np.array([*values], np.float64), np.array([*values.values()], np.float64)
    equations = np.stack([1 / expected, at / expected], axis=1)
    start, slope = np.linalg.lstsq(equations, np.ones(len(at)), rcond=None)[0].tolist()
    return start, slope


def lowest_cost(known: Mapping[int, RunTimes]) -> float:
    """Return the lowest cost per row in seconds; infinite if nothing was measured."""
    return min((times.cost_s / rows for rows, times in known.items()), default=float("inf"))


def zero_batch(inputs: Sequence[TensorSpec], rows: int) -> dict[str, Array]:
    """Return a batch of zeros."""
    return {tensor_spec.name: tensor_spec.zeros((rows, *tensor_spec.shape)) for tensor_spec in inputs}


def sizes_up_to(largest: int, others: Iterable[int] = ()) -> list[int]:
    """Return the powers of two up to `largest`, `largest` itself, and those of `others` that are not larger."""
    powers = (2**power for power in range(13))
    return sorted({size for size in (*powers, largest, *others) if size <= largest})


def measure_latencies(model: MeasuredModel, sizes: Sequence[int], seconds: float) -> dict[int, Latency]:
    """Measure for `seconds`, at least MIN_RUNS runs per size, and return latencies. Raises what a run raises."""
    times_by_size: dict[int, list[RunTimes]] = {}
    for size in sizes:
        model.warm_up(size)
        first = model.time(size)
        if times_by_size and first.run_s > MAX_RUN_S:
            break
        times_by_size[size] = [first]
    until = model.clock() + seconds
    while model.clock() < until or min(map(len, times_by_size.values())) < MIN_RUNS:
        for size, times in times_by_size.items():
            times.append(model.time(size))
    return {size: _latency(size, times) for size, times in times_by_size.items()}


def cap_from_latencies(latencies: dict[int, Latency], *, by_cpu: bool) -> int:
    """Choose the batch cap by the same rule as a worker."""
    known = {
        size: RunTimes(latency.p50_ms / 1000, latency.cpu_us_per_row * size / 1e6 if by_cpu else latency.p50_ms / 1000)
        for size, latency in latencies.items()
        if size <= MAX_MEASURED_BATCH or (by_cpu and size <= MAX_TINY_BATCH and latency.p50_ms <= MAX_TINY_RUN_S * 1000)
    }
    return choose_cap(known)


def _remeasure(model: MeasuredModel, known: dict[int, RunTimes], until: float) -> None:
    """Measure all sizes in several rounds and keep the shortest times, as other work delays some runs."""
    for _ in range(ROUNDS - 1):
        for size, best in list(known.items()):
            if model.clock() + best.run_s > until:
                return
            known[size] = _min_times(best, model.time(size))


def _min_times(first: RunTimes, second: RunTimes) -> RunTimes:
    return RunTimes(min(first.run_s, second.run_s), min(first.cost_s, second.cost_s))


def _is_allowed(known: Mapping[int, RunTimes], size: int, largest: int, largest_tiny: int) -> bool:
    """Return true if a cap may be this size, as far as it is known from runs of half the size."""
    return size <= largest or (size <= largest_tiny and 2 * known[size // 2].run_s <= MAX_TINY_RUN_S)


def _may_gain(known: Mapping[int, RunTimes], without_gain: int) -> bool:
    """Return true if a larger batch may cost less per row, or would still be a short run."""
    return without_gain < 2 or 2 * list(known.values())[-1].run_s <= MAX_SHARED_RUN_S


def _has_time(known: Mapping[int, RunTimes], spent_s: float) -> bool:
    """Return true if the budget allows a warm-up and two runs of the next size, estimated from the last one."""
    last_s = list(known.values())[-1].run_s if known else 0.0
    return spent_s + 2 * last_s * 4 <= BUDGET_S


def _latency(size: int, times: Sequence[RunTimes]) -> Latency:
    by_time = sorted(run.run_s for run in times)
    cost = min(run.cost_s for run in times)
    tail = by_time[min(len(by_time) - 1, int(0.99 * len(by_time)))]
    middle = by_time[len(by_time) // 2]
    return Latency(round(middle * 1000, 4), round(tail * 1000, 4), round(cost * 1e6 / size, 2), len(times))
