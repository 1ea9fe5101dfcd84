"""Check that a model returns the same result for a row alone and in any batch: padded, shuffled, or beside noise.

*Drift*: a row's result differs slightly between batch sizes, as kernels round differently.
*Leak*: a row's result depends on the other rows of the batch, which rounding does not explain.
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

# The largest allowed difference, relative to the largest number of the result.
FINE_TOLERANCE: Final = 1e-3
COARSE_TOLERANCE: Final = 1e-2
LEAK_SHARE: Final = 0.1  # of the tolerance, as runs of equal size differ less than runs of different sizes
SEED: Final = 7


@dataclass
class ConsistencyReport:
    """`drift`: the largest, found at `where`. `leaks`, `broken`: failures at any tolerance, one line each."""

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
        """Return why the check failed, on one line; empty if it passed."""
        if self.passed:
            return ""
        if self.leaks or self.broken:
            return (self.leaks or self.broken)[0]
        reason = f"a row's result differs by {self.drift:.3g} times its largest number {self.where}"
        return f"{reason}; allowed: {self.tolerance:g}"


class ConsistencyCheck:
    """Checks one model. `padded_size`: maps a number of rows to the size the worker pads it to."""

    def __init__(
        self, inputs: Sequence[TensorSpec], run: Run, padded_size: Callable[[int], int], tolerance: float
    ) -> None:
        self._inputs, self._run, self._padded_size = inputs, run, padded_size
        self.report = ConsistencyReport(tolerance)

    def full(self, sizes: Iterable[int], seed: int = SEED) -> ConsistencyReport:
        """Run all checks for each of these batch sizes. Raises what the model raises for a single row."""
        sizes = sorted({size for size in sizes if size > 1})
        rows, alone = self._run_alone(max(sizes, default=1), seed)
        for size in sizes:
            order = np.random.default_rng(seed + size).permutation(size)
            results = self._measure_drift(rows[:size], alone, range(size), f"in a batch of {size}", size)
            self._measure_drift(rows[:size], alone, order, f"shuffled in a batch of {size}", size)
            for count in sorted({1, size // 2 + 1, size - 1} - {0, size}):
                self._measure_drift(rows[:count], alone, range(count), f"{count} padded to {size}", size)
            if results:
                self._check_neighbours(rows[:size], results, (0, size - 1), self._noise(rows[0]))
        return self.report

    def short(self, size: int, seed: int = SEED) -> ConsistencyReport:
        """Run the cheapest checks: compare a batch of `size` with its rows alone, and one row beside noise."""
        rows, alone = self._run_alone(size, seed)
        results = self._measure_drift(rows, alone, range(size), f"in a batch of {size}", size)
        if results:
            self._check_neighbours(rows, results, [size // 2], self._noise(rows[0])[-1:])
        return self.report

    def _run_alone(self, count: int, seed: int) -> tuple[list[Row], list[Row]]:
        samples = synthetic_inputs.make_rows(self._inputs, count, seed, lambda row: self._run(stack_items([row])))
        alone = [split_outputs(self._run(stack_items([row])), 1)[0] for row in samples.rows]
        self.report.rows, self.report.runs = count, count + 1
        notes = [f"free dimensions were set to {samples.side}"] if samples.side else []
        if count > 1 and all(relative_difference(alone[0], other) == 0 for other in alone[1:]):
            notes.append("all rows have the same result, so this check proves little")
        self.report.note = "; ".join(notes)
        return samples.rows, alone

    def _run_batch(self, rows: Sequence[Row], size: int, where: str) -> list[Row] | None:
        """Run rows as one batch, padded to at least `size` rows. If that fails, record it and return None."""
        self.report.runs += 1
        padded_size = self._padded_size(max(size, len(rows)))
        try:
            return split_outputs(self._run(stack_items(rows, padded_size)), len(rows), padded_size)
        except CollationError as error:
            self.report.broken.append(f"{error}, {where}")
        except Exception as error:  # noqa: BLE001 - a runtime's errors have no common base but Exception
            _raise_if_resource_fault(error)
            self.report.broken.append(f"it cannot run {where}: {error}")
        return None

    def _measure_drift(
        self, rows: Sequence[Row], alone: Sequence[Row], order: Iterable[int], where: str, size: int
    ) -> list[Row] | None:
        """Run rows in this order and record their drift. Return the results in this order, or None on failure."""
        indices = list(order)
        results = self._run_batch([rows[at] for at in indices], size, where)
        for at, result in zip(indices, results or (), strict=False):
            distance = relative_difference(alone[at], result)
            if distance > self.report.drift:
                self.report.drift = distance
                self.report.where = f"{where} (row {at}, output {_worst_output(alone[at], result)!r})"
        return results

    def _check_neighbours(
        self, rows: Sequence[Row], results: Sequence[Row], positions: Iterable[int], noise: Sequence[tuple[str, Row]]
    ) -> None:
        """Record a leak if a row's result changes when the other rows of the batch are noise."""
        size = len(rows)
        padded_size = self._padded_size(size)
        for position, (description, noise_row) in itertools.product(positions, noise):
            batch = [row if at == position else noise_row for at, row in enumerate(rows)]
            self.report.runs += 1
            try:
                result = split_outputs(self._run(stack_items(batch, padded_size)), size, padded_size)[position]
            except Exception as error:  # noqa: BLE001 - a model may refuse noise: not a leak
                _raise_if_resource_fault(error)
                continue
            distance = relative_difference(results[position], result)
            if distance > self.report.tolerance * LEAK_SHARE:
                output = _worst_output(results[position], result)
                changes = (
                    f"changes by {distance:.3g} times its largest number"
                    if np.isfinite(distance)
                    else "is not a number any more"
                )
                place = f"beside {description} in a batch of {size}"
                self.report.leaks.append(f"rows are mixed: {place} a row's result (output {output!r}) {changes}")

    def _noise(self, row: Row) -> list[tuple[str, Row]]:
        noise = [(f"neighbours {synthetic_inputs.AMPLIFICATION} times as large", synthetic_inputs.amplify_row(row))]
        if (nan_row := synthetic_inputs.nan_row(row)) is not None:
            noise.append(("neighbours of NaN", nan_row))
        return noise


def _raise_if_resource_fault(error: Exception) -> None:
    """Raise errors that are not about the rows: out of memory, or a lost device."""
    if getattr(error, "fault", "input") != "input":
        raise error


def tolerance_of(tensor_specs: Iterable[TensorSpec], provider: str) -> float:
    """Return the allowed rounding difference for these inputs and outputs. GPUs round products to 10 bits (TF32)."""
    is_coarse = provider != "cpu" or any(tensor_spec.datatype == "FP16" for tensor_spec in tensor_specs)
    return COARSE_TOLERANCE if is_coarse else FINE_TOLERANCE


def relative_difference(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> float:
    """Return the largest difference relative to each output's largest number; infinite if NaNs or shapes differ."""
    return max((_distance(value, actual[name]) for name, value in expected.items()), default=0.0)


def _worst_output(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> str:
    return max(expected, key=lambda name: _distance(expected[name], actual[name]))


def _distance(expected: Array, actual: Array) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    special = ~np.isfinite(a)
    if not np.array_equal(a[special], b[special], equal_nan=True) or not np.isfinite(b[~special]).all():
        return float("inf")
    a, b = a[~special], b[~special]
    if not a.size:
        return 0.0
    largest = float(np.abs(a).max())
    return float(np.abs(a - b).max()) / (largest or 1.0)
