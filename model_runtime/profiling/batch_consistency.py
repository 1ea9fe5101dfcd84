"""Whether a model answers a rider the same in any company: alone, in every batch size, padded, shuffled, in noise.

Two things are told apart. *Drift*: a row gives slightly different numbers in another batch size, as kernels round
differently. *A leak*: a row's answer changes with who sits beside it, which no kernel excuses. Knows no runtime: it is
handed a function that runs arrays.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from batching.collation import CollationError, split_outputs, stack_items
from model_runtime.profiling import synthetic_inputs
from model_runtime.profiling.synthetic_inputs import Row
from model_runtime.tensor_spec import Array, TensorSpec

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

# The largest difference that passes, as a share of the answer's largest number.
FINE_TOLERANCE: Final = 1e-3
COARSE_TOLERANCE: Final = 1e-2
LEAK_SHARE: Final = 0.1  # of the tolerance: two runs of one size differ by less than two sizes do
SEED: Final = 7


@dataclass
class ConsistencyReport:
    """`drift`: the largest, and `where`. `leaks`, `broken`: one line each; what is wrong whatever the tolerance."""

    tolerance: float
    drift: float = 0.0
    where: str = "nowhere"
    leaks: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    runs: int = 0
    rows: int = 0
    note: str = ""

    @property
    def passed(self) -> bool:
        return not self.leaks and not self.broken and self.drift <= self.tolerance

    @property
    def reason(self) -> str:
        """Why not, on one line; empty where it passed."""
        if self.passed:
            return ""
        if self.leaks or self.broken:
            return (self.leaks or self.broken)[0]
        words = f"a rider's answer differs by {self.drift:.3g} times its largest number {self.where}"
        return f"{words}; allowed: {self.tolerance:g}"


class ConsistencyCheck:
    """One model under test. `seats`: riders → rows of the run, as the worker would pad."""

    def __init__(
        self, inputs: Sequence[TensorSpec], run: Run, padded_size: Callable[[int], int], tolerance: float
    ) -> None:
        self._inputs, self._run, self._seats = inputs, run, padded_size
        self.found = ConsistencyReport(tolerance)

    def full(self, sizes: Iterable[int], seed: int = SEED) -> ConsistencyReport:
        """Everything, in each of these sizes. Raises what the model raises for one row alone."""
        sizes = sorted({size for size in sizes if size > 1})
        rows, alone = self._run_alone(max(sizes, default=1), seed)
        for size in sizes:
            order = np.random.default_rng(seed + size).permutation(size)
            usual = self._measure_drift(rows[:size], alone, range(size), f"in a batch of {size}", size)
            self._measure_drift(rows[:size], alone, order, f"shuffled in a batch of {size}", size)
            for count in sorted({1, size // 2 + 1, size - 1} - {0, size}):
                self._measure_drift(rows[:count], alone, range(count), f"{count} padded to {size}", size)
            if usual:
                self._check_neighbours(rows[:size], usual, (0, size - 1), self._noise(rows[0]))
        return self.found

    def short(self, size: int, seed: int = SEED) -> ConsistencyReport:
        """What tells most for least, before a model is served: a batch against its rows alone, and noise."""
        rows, alone = self._run_alone(size, seed)
        usual = self._measure_drift(rows, alone, range(size), f"in a batch of {size}", size)
        if usual:
            self._check_neighbours(rows, usual, [size // 2], self._noise(rows[0])[-1:])
        return self.found

    def _run_alone(self, count: int, seed: int) -> tuple[list[Row], list[Row]]:
        made = synthetic_inputs.make_rows(self._inputs, count, seed, lambda row: self._run(stack_items([row])))
        alone = [split_outputs(self._run(stack_items([row])), 1)[0] for row in made.rows]
        self.found.rows, self.found.runs = count, count + 1
        notes = [f"free dimensions were taken as {made.side}"] if made.side else []
        if count > 1 and all(relative_difference(alone[0], other) == 0 for other in alone[1:]):
            notes.append("every row has the same answer, whatever is in it: that says little")
        self.found.note = "; ".join(notes)
        return made.rows, alone

    def _run_batch(self, rows: Sequence[Row], size: int, words: str) -> list[Row] | None:
        """Run them as one batch of so many rows at least; None, and noted, where that can not be."""
        self.found.runs += 1
        padded_size = self._seats(max(size, len(rows)))
        try:
            return split_outputs(self._run(stack_items(rows, padded_size)), len(rows), padded_size)
        except CollationError as error:
            self.found.broken.append(f"{error}, {words}")
        except Exception as error:  # noqa: BLE001 - a runtime's errors share no base but Exception
            _raise_if_resource_fault(error)
            self.found.broken.append(f"it can not run {words}: {error}")
        return None

    def _measure_drift(
        self, rows: Sequence[Row], alone: Sequence[Row], order: Iterable[int], words: str, size: int
    ) -> list[Row] | None:
        """Seat rows in this order; gives their answers, in that order, where they ran."""
        seated = list(order)
        answers = self._run_batch([rows[at] for at in seated], size, words)
        for at, answer in zip(seated, answers or (), strict=False):
            distance = relative_difference(alone[at], answer)
            if distance > self.found.drift:
                where = f"{words} (row {at}, output {_worst(alone[at], answer)!r})"
                self.found.drift, self.found.where = distance, where
        return answers

    def _check_neighbours(
        self, rows: Sequence[Row], usual: Sequence[Row], places: Iterable[int], noise: Sequence[tuple[str, Row]]
    ) -> None:
        """The same row at the same place of the same size, beside others: nothing may change."""
        size = len(rows)
        for place, (what, beside) in itertools.product(places, noise):
            seated, padded_size = [row if at == place else beside for at, row in enumerate(rows)], self._seats(size)
            self.found.runs += 1
            try:
                answer = split_outputs(self._run(stack_items(seated, padded_size)), size, padded_size)[place]
            except Exception as error:  # noqa: BLE001 - noise may be refused: that is no leak
                _raise_if_resource_fault(error)
                continue
            distance = relative_difference(usual[place], answer)
            if distance > self.found.tolerance * LEAK_SHARE:
                output = _worst(usual[place], answer)
                changes = (
                    f"changes by {distance:.3g} times its largest number"
                    if np.isfinite(distance)
                    else "is no number any more"
                )
                words = f"beside {what} in a batch of {size} a rider's answer (output {output!r}) {changes}"
                self.found.leaks.append(f"rows are mixed: {words}")

    def _noise(self, row: Row) -> list[tuple[str, Row]]:
        noise = [(f"neighbours {synthetic_inputs.AMPLIFICATION} times as large", synthetic_inputs.amplify_row(row))]
        if (broken := synthetic_inputs.nan_row(row)) is not None:
            noise.append(("neighbours of NaN", broken))
        return noise


def _raise_if_resource_fault(error: Exception) -> None:
    """No memory, or a lost device, says nothing about rows."""
    if getattr(error, "fault", "input") != "input":
        raise error


def tolerance_of(tensor_specs: Iterable[TensorSpec], provider: str) -> float:
    """What may pass as rounding for a model with these inputs and outputs. GPUs round products to 10 bits (TF32)."""
    is_coarse = provider != "cpu" or any(tensor_spec.datatype == "FP16" for tensor_spec in tensor_specs)
    return COARSE_TOLERANCE if is_coarse else FINE_TOLERANCE


def relative_difference(one: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """The largest difference of all outputs, as a share of the largest number there; infinite where one is missing."""
    return max((_distance(value, other[name]) for name, value in one.items()), default=0.0)


def _worst(one: Mapping[str, Array], other: Mapping[str, Array]) -> str:
    return max(one, key=lambda name: _distance(one[name], other[name]))


def _distance(one: Array, other: Array) -> float:
    if one.shape != other.shape:
        return float("inf")
    a, b = one.astype(np.float64), other.astype(np.float64)
    odd = ~np.isfinite(a)
    if not np.array_equal(a[odd], b[odd], equal_nan=True) or not np.isfinite(b[~odd]).all():
        return float("inf")
    a, b = a[~odd], b[~odd]
    if not a.size:
        return 0.0
    size = float(np.abs(a).max())
    return float(np.abs(a - b).max()) / (size or 1.0)
