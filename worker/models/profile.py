"""How long a model takes for each batch size on this machine, and the batch cap that follows: what more gains nothing.

Measures when the model is loaded, on zeros. Knows no jobs and no runtime.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from worker.models.port import DTYPES, Array, Port

LARGEST: Final = 64  # of the caps found here; an operator may set a larger one
NEARLY_BEST: Final = 0.9  # of the best rate: less of it is not worth a shorter wait
# So long a run may be shared though it gains nothing by that: a batch costs something outside of its run too (0016).
COMPANY_S: Final = 0.05
REPEATS: Final = 3
BUDGET_S: Final = 2.0

Run = Callable[[dict[str, Array]], object]


class Profile(NamedTuple):
    """`cap`: the most riders of a batch. `run_ms`: one run's best time by batch size; empty where none was measured.

    `error`: what the next size met, where that ended the measuring.
    """

    cap: int
    run_ms: Mapping[int, float]
    error: Exception | None = None


def measure(inputs: Sequence[Port], run: Run, clock: Callable[[], float] = time.perf_counter) -> Profile:
    """Try batches of 1, 2, 4 and so on until they gain nothing any more. `inputs`: ports of one row.

    A model whose shapes are open, or that can not run on zeros, is not measured: its cap is half of the largest.
    """
    if not all(port.is_fixed for port in inputs):
        return Profile(LARGEST // 2, {})
    run_s: dict[int, float] = {}
    met: Exception | None = None
    started, size, without_gain = clock(), 1, 0
    while size <= LARGEST and _may_gain(run_s, without_gain) and _has_time(run_s, clock() - started):
        best_rate = max((rows / s for rows, s in run_s.items()), default=0.0)
        try:
            run_s[size] = _time(_zeros(inputs, size), run, clock)
        except Exception as error:  # noqa: BLE001 - whatever zeros or so many rows do to it, it may serve others
            met = error
            break
        without_gain = 0 if size / run_s[size] > best_rate / NEARLY_BEST else without_gain + 1
        size *= 2
    if not run_s:
        return Profile(LARGEST // 2, {}, met)
    enough = NEARLY_BEST * max(rows / s for rows, s in run_s.items())
    good = [rows for rows, s in run_s.items() if rows / s >= enough]
    cap = max([rows for rows in good if run_s[rows] <= COMPANY_S], default=min(good))
    return Profile(cap, {rows: round(s * 1000, 4) for rows, s in run_s.items()}, met)


def _may_gain(run_s: Mapping[int, float], without_gain: int) -> bool:
    """Whether a larger batch may be a better one: it runs faster by the row, or is short enough for company's sake."""
    return without_gain < 2 or 2 * list(run_s.values())[-1] <= COMPANY_S


def _has_time(run_s: Mapping[int, float], spent_s: float) -> bool:
    """Whether the next size may be tried, by what the last one took."""
    last_s = list(run_s.values())[-1] if run_s else 0.0
    return spent_s + 2 * last_s * (REPEATS + 1) <= BUDGET_S


def _time(arrays: dict[str, Array], run: Run, clock: Callable[[], float]) -> float:
    """The shortest of a few runs, after one to warm up: what delays a run is other work, never the model."""
    run(arrays)
    times = []
    for _ in range(REPEATS):
        began = clock()
        run(arrays)
        times.append(clock() - began)
    return max(1e-9, min(times))


def _zeros(inputs: Sequence[Port], rows: int) -> dict[str, Array]:
    return {port.name: np.zeros((rows, *port.shape), DTYPES[port.datatype]) for port in inputs}
