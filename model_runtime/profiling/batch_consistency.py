"""Check that a row gives the same result alone and in any batch; compare two results, and say what rounding allows.

*Drift*: a row's result differs slightly between batch sizes, as kernels round differently.
*Leak*: a row's result depends on the other rows of the batch, which rounding does not explain.
*Coupling*: an operator of the graph makes rows affect each other, whether or not the rows that were tried show it.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from batching.collation import CollationError, split_outputs, stack_items
from model_runtime.graph.facts import GraphFacts
from model_runtime.profiling import synthetic_inputs
from model_runtime.profiling.synthetic_inputs import Row, RowGenerator
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

# The largest allowed difference, relative to the largest number of the result.
FINE_TOLERANCE: Final = 1e-3
COARSE_TOLERANCE: Final = 1e-2
LEAK_SHARE: Final = 0.1  # of the tolerance, as runs of equal size differ less than runs of different sizes
SCALED_SHARE: Final = 10  # of the tolerance, for rows of unusual magnitude, whose rounding differs more
DRIFT_ROWS: Final = 64  # to measure a drift that is allowed
SEED: Final = 7
SHORT_BUDGET_S: Final = 0.15  # of the short form; larger batches are compared in what is left of it
_ALIKE: Final = "every row that was tried has the same result, so the check proves nothing"
_QUANTIZED: Final = (
    "quantize the original statically or by its weights alone (`jitney models optimize`, --int8 or --int8-weights), or "
    "allow its drift by max_drift"
)


@dataclass
class ConsistencyReport:
    """`drift`: the largest between usual rows, found at `where`. `leaks`, `broken`: failures at any tolerance.

    `couplings`: what the graph says, one line each. `is_drift_allowed`: all of them quantize by one scale for the
    batch, and the owner allows the drift. `unchecked`: why the check proves nothing. `doubts`: what it could not see.
    """

    tolerance: float
    drift: float = 0.0
    where: str = "nowhere"
    leaks: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    couplings: list[str] = field(default_factory=list)
    is_drift_allowed: bool = False
    unchecked: str = ""
    runs: int = 0
    rows: int = 0
    note: str = ""
    doubts: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.reason

    @property
    def checked(self) -> bool | None:
        """Return true if the check passed, false if it failed, and None if it proves nothing."""
        return None if self.unchecked and self.reason == self.unchecked else self.passed

    @property
    def reason(self) -> str:
        """Return why the check did not pass, on one line; empty if it passed."""
        mixed = [] if self.is_drift_allowed else [*self.couplings, *self.leaks]
        if mixed or self.broken:
            return (mixed or self.broken)[0]
        if self.drift > self.tolerance:
            reason = f"a row's result differs by {self.drift:.3g} times its largest number {self.where}"
            return f"{reason}; allowed: {self.tolerance:g}"
        return self.unchecked


class ConsistencyCheck:
    """Checks one model. `padded_size`: maps a number of rows to the size the worker pads it to."""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        run: Run,
        padded_size: Callable[[int], int],
        tolerance: float,
        *,
        facts: GraphFacts | None = None,
        examples: Sequence[Row] = (),
        max_drift: float | None = None,
        find_indices: bool = True,
    ) -> None:
        """Prepare a check. `max_drift`: the drift that the owner allows, also of couplings that quantize.

        `find_indices`: find the largest index by running, where the graph does not tell it; not for GPUs.
        """
        self._inputs, self._run, self._padded_size, self._examples = inputs, run, padded_size, examples
        self._tolerance, self._facts, self._find_indices = tolerance, facts or GraphFacts(), find_indices
        couplings = self._facts.couplings
        self.report = ConsistencyReport(
            tolerance if max_drift is None else max_drift,
            couplings=[f"{each}; {_QUANTIZED}" if each.quantizes else str(each) for each in couplings],
            doubts=[self._facts.note] if self._facts.note else [],
            is_drift_allowed=max_drift is not None and bool(couplings) and all(each.quantizes for each in couplings),
        )

    def full(self, sizes: Iterable[int], seed: int = SEED) -> ConsistencyReport:
        """Run all checks for each of these batch sizes. Raises what the model raises for a single row."""
        sizes = sorted({size for size in sizes if size > 1})
        generator, rows, alone = self._run_alone(max(sizes, default=1), seed)
        for size in sizes:
            order = np.random.default_rng(seed + size).permutation(size)
            results = self._measure_drift(rows[:size], alone, range(size), f"in a batch of {size}", size)
            self._measure_drift(rows[:size], alone, order, f"shuffled in a batch of {size}", size)
            for count in sorted({1, size // 2 + 1, size - 1} - {0, size}):
                self._measure_drift(rows[:count], alone, range(count), f"{count} padded to {size}", size)
            if results:
                self._check_neighbours(rows[:size], results, (0, size - 1), self._noise(generator, rows[0]))
            if not self._has_failed:
                self._check_scaled(generator, rows[:size], alone)
        return self.report

    def short(self, size: int, larger: Iterable[int] = (), seed: int = SEED) -> ConsistencyReport:
        """Run the cheapest checks: a batch of `size` against its rows alone, also scaled, and beside noise.

        `larger`: batch sizes to compare too, while all of it takes less than SHORT_BUDGET_S. Where the drift of a
        coupling is allowed, it is measured with as many rows as a batch may have, up to DRIFT_ROWS.
        """
        if self.report.is_drift_allowed:
            largest = min(max(larger, default=size), DRIFT_ROWS)
            _, rows, alone = self._run_alone(largest, seed)
            for count in sorted({min(size, largest), largest // 2, largest} - {0}):
                order = np.random.default_rng(seed + count).permutation(count)
                self._measure_drift(rows, alone, order, f"in a batch of {count}", count)
            return self.report
        started = time.perf_counter()
        generator, rows, alone = self._run_alone(size, seed)
        results = self._measure_drift(rows, alone, range(size), f"in a batch of {size}", size)
        if results:
            self._check_neighbours(rows, results, [size // 2], self._noise(generator, rows[0])[-1:])
        if not self._has_failed:
            self._check_scaled(generator, rows, alone)
        took_s = time.perf_counter() - started
        row_s, until = took_s / (5 * size), started + SHORT_BUDGET_S
        for other in sorted(larger):
            if (
                other <= size
                or time.perf_counter() + row_s * other > until
                or not self._compare_repeated(rows, alone, other)
            ):
                break
        return self.report

    @property
    def _has_failed(self) -> bool:
        return bool(self.report.leaks or self.report.drift > self.report.tolerance)

    def _run_alone(self, count: int, seed: int) -> tuple[RowGenerator, list[Row], list[Row]]:
        """Return rows that have different results, and their results. Other magnitudes are tried until they have."""
        generator = RowGenerator(
            self._inputs, self._run_one, self._facts.heights, self._examples, find_indices=self._find_indices
        )
        rows = generator.rows(count, seed)
        alone = [self._run_one(row) for row in rows]
        for style in range(1, len(synthetic_inputs.STYLES)):
            if not _are_alike(alone) or self._examples or count == 1:
                break
            try:
                others = [rows[0], *generator.rows(count, seed + style, style)[1:]]
                rows, alone = others, [alone[0], *map(self._run_one, others[1:])]
            except Exception as error:  # noqa: BLE001 - a model may refuse a magnitude
                _raise_if_resource_fault(error)
        self.report.rows = count
        if count > 1 and _are_alike(alone):
            self.report.unchecked = _ALIKE
        kinds = f"{min(count, len(self._examples))} examples were used" if self._examples else ""
        sizes = f"free dimensions were set to {generator.side}" if generator.side else ""
        self.report.note = "; ".join(filter(None, [kinds, sizes, *self.report.doubts]))
        return generator, rows, alone

    def _run_one(self, row: Row) -> Row:
        self.report.runs += 1
        return split_outputs(self._run(stack_items([row])), 1)[0]

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
            self._record_drift(at, alone[at], result, where)
        return results

    def _record_drift(self, at: int, expected: Row, result: Row, where: str) -> None:
        distance = relative_difference(expected, result)
        if distance > self.report.drift:
            self.report.drift = distance
            self.report.where = f"{where} (row {at}, output {_worst_output(expected, result)!r})"

    def _compare_repeated(self, rows: Sequence[Row], alone: Sequence[Row], size: int) -> bool:
        """Record the drift in a batch that repeats the rows. Return false if it does not run: the cap is smaller."""
        indices = [at % len(rows) for at in range(size)]
        padded_size = self._padded_size(size)
        self.report.runs += 1
        try:
            outputs = self._run(stack_items([rows[at] for at in indices], padded_size))
        except Exception as error:
            if getattr(error, "fault", "input") == "device":
                raise
            return False
        for at, result in zip(indices, split_outputs(outputs, size, padded_size), strict=True):
            self._record_drift(at, alone[at], result, f"in a batch of {size}")
        return True

    def _check_scaled(self, generator: RowGenerator, rows: Sequence[Row], alone: Sequence[Row]) -> None:
        """Record a leak if a row has another result beside larger or smaller rows, or beside extreme ones."""
        size = len(rows)
        small, large = generator.smaller(rows[0]), generator.larger(rows[-1])
        try:
            expected = [self._run_one(large), self._run_one(small), *alone[2:size]]
        except Exception as error:  # noqa: BLE001 - a model may refuse a magnitude
            _raise_if_resource_fault(error)
            return
        batch, where = [large, small, *rows[2:]], f"in a batch of {size} of different magnitudes"
        if (results := self._run_batch(batch, size, where)) is None:
            return
        for at, result in enumerate(results):
            if self._is_leak(expected[at], result, where, self._tolerance * SCALED_SHARE):
                return
        self._check_neighbours(batch, results, [1], self._noise(generator, rows[-1])[:1])

    def _check_neighbours(
        self,
        rows: Sequence[Row],
        results: Sequence[Row],
        positions: Iterable[int],
        noise: Sequence[tuple[str, Sequence[Row]]],
    ) -> None:
        """Record a leak if a row's result changes when the other rows of the batch are noise."""
        size = len(rows)
        padded_size = self._padded_size(size)
        found = set[str]()
        for position, (description, noise_rows) in itertools.product(positions, noise):
            if description in found:
                continue
            neighbours = itertools.cycle(noise_rows)
            batch = [row if at == position else next(neighbours) for at, row in enumerate(rows)]
            self.report.runs += 1
            try:
                result = split_outputs(self._run(stack_items(batch, padded_size)), size, padded_size)[position]
            except Exception as error:  # noqa: BLE001 - a model may refuse noise: not a leak
                _raise_if_resource_fault(error)
                continue
            where = f"beside {description} in a batch of {size}"
            if self._is_leak(results[position], result, where, self._tolerance * LEAK_SHARE):
                found.add(description)

    def _is_leak(self, expected: Row, result: Row, where: str, limit: float) -> bool:
        """Return true, and record it, if the results differ by more than rounding explains."""
        distance = relative_difference(expected, result)
        if not any(DTYPES[tensor_spec.datatype].kind == "f" for tensor_spec in self._inputs):  # all rows are usual
            self._record_drift(0, expected, result, where)
        if distance <= limit:
            return False
        output = _worst_output(expected, result)
        changes = (
            f"changes by {distance:.3g} times its largest number"
            if np.isfinite(distance)
            else "is not a number any more"
        )
        self.report.leaks.append(f"rows are mixed: {where} a row's result (output {output!r}) {changes}")
        return True

    def _noise(self, generator: RowGenerator, row: Row) -> list[tuple[str, Sequence[Row]]]:
        """Return neighbours: extreme ones, and ones of NaN where an input is floating point."""
        noise: list[tuple[str, Sequence[Row]]] = [("neighbours far from usual", generator.extremes(row))]
        if (nan_row := synthetic_inputs.nan_row(row)) is not None:
            noise.append(("neighbours of NaN", [nan_row]))
        return noise


def _are_alike(results: Sequence[Row]) -> bool:
    return all(relative_difference(results[0], other) == 0 for other in results[1:])


def _raise_if_resource_fault(error: Exception) -> None:
    """Raise errors that are not about the rows: out of memory, or a lost device."""
    if getattr(error, "fault", "input") != "input":
        raise error


def tolerance_of(tensor_specs: Iterable[TensorSpec], provider: str) -> float:
    """Return the allowed rounding difference for these inputs and outputs. GPUs round products to 10 bits (TF32)."""
    is_coarse = provider != "cpu" or any(tensor_spec.datatype in {"FP16", "BF16"} for tensor_spec in tensor_specs)
    return COARSE_TOLERANCE if is_coarse else FINE_TOLERANCE


def relative_difference(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> float:
    """Return the largest difference relative to each output's largest number; infinite if NaNs or shapes differ."""
    return max((_distance(value, actual[name]) for name, value in expected.items()), default=0.0)


def _worst_output(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> str:
    return max(expected, key=lambda name: _distance(expected[name], actual[name]))


def _distance(expected: Array, actual: Array) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    if expected.dtype.kind == "O":
        return 0.0 if np.array_equal(expected, actual) else float("inf")
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    special = ~np.isfinite(a)
    if not np.array_equal(a[special], b[special], equal_nan=True) or not np.isfinite(b[~special]).all():
        return float("inf")
    a, b = a[~special], b[~special]
    if not a.size:
        return 0.0
    largest = float(np.abs(a).max())
    return float(np.abs(a - b).max()) / (largest or 1.0)
