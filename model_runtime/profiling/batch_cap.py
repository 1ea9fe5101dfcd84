"""How long a model takes for each batch size on this machine, and the batch cap that follows: what more gains nothing.

Measures when the model is loaded, on zeros. Knows no jobs and no runtime.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from model_runtime.profiling.profile_store import KeptProfile
from model_runtime.tensor_spec import DTYPES, Array, Port

LARGEST: Final = 64  # of the caps found here; an operator may set a larger one
NEARLY_BEST: Final = 0.95  # of the lowest cost by the row: less of it is not worth a shorter wait
# So long a run may be shared though it gains nothing by that: a batch costs something outside of its run too (0016).
COMPANY_S: Final = 0.05
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
    kept: Sequence[KeptProfile] = ()


class Times(NamedTuple):
    """One run of some size, in seconds: `run_s` by the clock on the wall, `cost_s` what it took of what is scarce."""

    run_s: float
    cost_s: float


class Trial(NamedTuple):
    """A model to measure. `clock`: seconds; `spent`: reads what runs cost, None where that is their time."""

    inputs: Sequence[Port]
    run: Run
    clock: Clock = time.perf_counter
    spent: Clock | None = None

    def warm_up(self, rows: int) -> None:
        self.run(zeros(self.inputs, rows))

    def time(self, rows: int) -> Times:
        """One run of so many zeros."""
        batch = zeros(self.inputs, rows)
        began, had = self.clock(), self.spent() if self.spent else 0.0
        self.run(batch)
        run_s = max(1e-9, self.clock() - began)
        return Times(run_s, max(1e-9, self.spent() - had) if self.spent else run_s)


def measure(trial: Trial, largest: int = LARGEST) -> Profile:
    """Try batches of 1, 2, 4 and so on until they gain nothing any more. Ports are those of one row.

    On a CPU the cost is CPU time: other work on the machine lengthens a run much more than it makes it dearer.
    A model whose shapes are open, or that can not run on zeros, is not measured: its cap is half of the largest.
    """
    if not all(port.is_fixed for port in trial.inputs):
        return Profile(max(1, largest // 2), {})
    known: dict[int, Times] = {}
    met: Exception | None = None
    started, size, without_gain = trial.clock(), 1, 0
    while size <= largest and _may_gain(known, without_gain) and _has_time(known, trial.clock() - started):
        before = lowest_cost(known)
        try:
            trial.warm_up(size)
            known[size] = _better(trial.time(size), trial.time(size))
        except Exception as error:  # noqa: BLE001 - whatever zeros or so many rows do to it, it may serve others
            met = error
            break
        without_gain = 0 if known[size].cost_s / size < before * NEARLY_BEST else without_gain + 1
        size *= 2
    if not known:
        return Profile(max(1, largest // 2), {}, met)
    _look_again(trial, known, started + BUDGET_S)
    return Profile(cap_of(known), {rows: round(times.run_s * 1000, 4) for rows, times in known.items()}, met)


def cap_of(known: Mapping[int, Times]) -> int:
    """Of the sizes that cost nearly the least by the row, the largest whose run is short; or else the smallest."""
    enough = lowest_cost(known) / NEARLY_BEST
    good = [rows for rows, times in known.items() if times.cost_s / rows <= enough]
    return max([rows for rows in good if known[rows].run_s <= COMPANY_S], default=min(good))


def lowest_cost(known: Mapping[int, Times]) -> float:
    """By the row; infinite where nothing is known."""
    return min((times.cost_s / rows for rows, times in known.items()), default=float("inf"))


def zeros(inputs: Sequence[Port], rows: int) -> dict[str, Array]:
    """A batch of nothing."""
    return {port.name: np.zeros((rows, *port.shape), DTYPES[port.datatype]) for port in inputs}


def _look_again(trial: Trial, known: dict[int, Times], until: float) -> None:
    """Keep the best of some rounds through all sizes: what delays a run is other work, which comes and goes."""
    for _ in range(ROUNDS - 1):
        for size, best in list(known.items()):
            if trial.clock() + best.run_s > until:
                return
            known[size] = _better(best, trial.time(size))


def _better(one: Times, other: Times) -> Times:
    return Times(min(one.run_s, other.run_s), min(one.cost_s, other.cost_s))


def _may_gain(known: Mapping[int, Times], without_gain: int) -> bool:
    """Whether a larger batch may be a better one: it costs less by the row, or is short enough for company's sake."""
    return without_gain < 2 or 2 * list(known.values())[-1].run_s <= COMPANY_S


def _has_time(known: Mapping[int, Times], spent_s: float) -> bool:
    """Whether the next size may be tried, by what the last one took: to warm up, and at least two looks at it."""
    last_s = list(known.values())[-1].run_s if known else 0.0
    return spent_s + 2 * last_s * 4 <= BUDGET_S
