"""How long a model takes for each batch size on this machine, and the batch cap that follows: what more gains nothing.

Measures when the model is loaded, on zeros. Knows no jobs and no runtime.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from model_runtime.profiling.profile_store import StoredProfile
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

MAX_MEASURED_BATCH: Final = 64  # of the caps found here; an operator may set a larger one
COST_TOLERANCE: Final = 0.95  # of the lowest cost by the row: less of it is not worth a shorter wait
# So long a run may be shared though it gains nothing by that: a batch costs something outside of its run too (0016).
MAX_SHARED_RUN_S: Final = 0.05
ROUNDS: Final = 6
BUDGET_S: Final = 2.0

Run = Callable[[dict[str, Array]], object]
Clock = Callable[[], float]


class Profile(NamedTuple):
    """`cap`: the most riders of a batch. `run_ms`: one run's best time by batch size; empty where none was measured.

    `error`: what the next size met, where that ended the measuring.
    `kept`: what `jitney models profile` has measured, on this device and on others.
    """

    cap: int
    run_ms: Mapping[int, float]
    error: Exception | None = None
    kept: Sequence[StoredProfile] = ()


class RunTimes(NamedTuple):
    """One run of some size, in seconds: `run_s` by the clock on the wall, `cost_s` what it took of what is scarce."""

    run_s: float
    cost_s: float


class MeasuredModel(NamedTuple):
    """A model to measure. `clock`: seconds; `spent`: reads what runs cost, None where that is their time."""

    inputs: Sequence[TensorSpec]
    run: Run
    clock: Clock = time.perf_counter
    spent: Clock | None = None

    def warm_up(self, rows: int) -> None:
        self.run(zero_batch(self.inputs, rows))

    def time(self, rows: int) -> RunTimes:
        """One run of so many zeros."""
        batch = zero_batch(self.inputs, rows)
        began, had = self.clock(), self.spent() if self.spent else 0.0
        self.run(batch)
        run_s = max(1e-9, self.clock() - began)
        return RunTimes(run_s, max(1e-9, self.spent() - had) if self.spent else run_s)


def measure_profile(trial: MeasuredModel, largest: int = MAX_MEASURED_BATCH) -> Profile:
    """Try batches of 1, 2, 4 and so on until they gain nothing any more. Ports are those of one row.

    On a CPU the cost is CPU time: other work on the machine lengthens a run much more than it makes it dearer.
    A model whose shapes are open, or that can not run on zeros, is not measured: its cap is half of the largest.
    """
    if not all(tensor_spec.is_fixed for tensor_spec in trial.inputs):
        return Profile(max(1, largest // 2), {})
    known: dict[int, RunTimes] = {}
    met: Exception | None = None
    started, size, without_gain = trial.clock(), 1, 0
    while size <= largest and _may_gain(known, without_gain) and _has_time(known, trial.clock() - started):
        before = lowest_cost(known)
        try:
            trial.warm_up(size)
            known[size] = _min_times(trial.time(size), trial.time(size))
        except Exception as error:  # noqa: BLE001 - whatever zeros or so many rows do to it, it may serve others
            met = error
            break
        without_gain = 0 if known[size].cost_s / size < before * COST_TOLERANCE else without_gain + 1
        size *= 2
    if not known:
        return Profile(max(1, largest // 2), {}, met)
    _remeasure(trial, known, started + BUDGET_S)
    return Profile(choose_cap(known), {rows: round(times.run_s * 1000, 4) for rows, times in known.items()}, met)


def choose_cap(known: Mapping[int, RunTimes]) -> int:
    """Of the sizes that cost nearly the least by the row, the largest whose run is short; or else the smallest."""
    enough = lowest_cost(known) / COST_TOLERANCE
    good = [rows for rows, times in known.items() if times.cost_s / rows <= enough]
    return max([rows for rows in good if known[rows].run_s <= MAX_SHARED_RUN_S], default=min(good))


def lowest_cost(known: Mapping[int, RunTimes]) -> float:
    """By the row; infinite where nothing is known."""
    return min((times.cost_s / rows for rows, times in known.items()), default=float("inf"))


def zero_batch(inputs: Sequence[TensorSpec], rows: int) -> dict[str, Array]:
    """A batch of nothing."""
    return {
        tensor_spec.name: np.zeros((rows, *tensor_spec.shape), DTYPES[tensor_spec.datatype]) for tensor_spec in inputs
    }


def _remeasure(trial: MeasuredModel, known: dict[int, RunTimes], until: float) -> None:
    """Keep the best of some rounds through all sizes: what delays a run is other work, which comes and goes."""
    for _ in range(ROUNDS - 1):
        for size, best in list(known.items()):
            if trial.clock() + best.run_s > until:
                return
            known[size] = _min_times(best, trial.time(size))


def _min_times(one: RunTimes, other: RunTimes) -> RunTimes:
    return RunTimes(min(one.run_s, other.run_s), min(one.cost_s, other.cost_s))


def _may_gain(known: Mapping[int, RunTimes], without_gain: int) -> bool:
    """Whether a larger batch may be a better one: it costs less by the row, or is short enough for company's sake."""
    return without_gain < 2 or 2 * list(known.values())[-1].run_s <= MAX_SHARED_RUN_S


def _has_time(known: Mapping[int, RunTimes], spent_s: float) -> bool:
    """Whether the next size may be tried, by what the last one took: to warm up, and at least two looks at it."""
    last_s = list(known.values())[-1].run_s if known else 0.0
    return spent_s + 2 * last_s * 4 <= BUDGET_S
