"""Generate synthetic rows for checking a model: usual rows by seed, and rows that expose how rows affect each other.

An integer that selects from a table gets values over the whole table. The height of a table is read from the graph
where it is known, or else found by running.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

Row = dict[str, Array]

# Sizes to try for free dimensions, until a row runs.
GUESSES: Final = (16, 32, 64, 224, 128, 8, 1)
SCALE: Final = 16  # of rows that are smaller or larger than usual
AMPLIFICATION: Final = (1000, -1e6)  # times a usual number
MAX_INDEX: Final = 1 << 20
WORDS: Final = ("", "a", "b", "other", "yes", "no", "1", "0")  # texts
MAX_NUMBER: Final = 1000  # of integers that are no index, such as masks and counts
STYLE_NUMBERS: Final = (1, 3, 255, MAX_NUMBER, 15)  # the largest of them by style
# An integer whose run time grows with its value is a size or a count, and no index.
SLOWDOWN, SLOW_RUN_S, SEARCH_S = 4, 0.02, 0.25
# Distributions of usual floats. The later ones are for models that give all rows of the first the same result.
STYLES: Final[Sequence[Callable[[np.random.Generator, Sequence[int]], Array]]] = (
    lambda random, shape: random.standard_normal(shape),
    lambda random, shape: random.random(shape),
    lambda random, shape: random.random(shape) * 255,
    lambda random, shape: random.standard_normal(shape) * 100,
    lambda random, shape: random.standard_normal(shape) / 1000,
)


class Samples(NamedTuple):
    """`side`: the size used for free dimensions, 0 if there are none."""

    rows: list[Row]
    side: int


class RowGenerator:
    """Generates rows for a model, without the batch dimension.

    `side`: the size used for free dimensions, 0 if there are none. `tops`: the largest value of each integer input.
    `indices`: the integer inputs that select from a table, or are the only input; the others may be masks or counts.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        run: Callable[[Row], object],
        heights: Mapping[str, int] | None = None,
        examples: Sequence[Row] = (),
        *,
        find_indices: bool = True,
    ) -> None:
        """Find a size for free dimensions and the ranges of integers. Raises the model's error if no row runs.

        `run`: runs one row. `heights`: the number of rows of the table that an input selects from, where it is known.
        `examples`: rows of the owner, used before others; integers are not larger than theirs, but for indices.
        `find_indices`: run indices that may not exist, to find the largest; on a GPU that may end the process.
        """
        self._inputs, self._run, self._examples = inputs, run, examples
        self._find_indices = find_indices and not examples
        self.side, self.tops = 0, dict[str, int]()
        self.indices = {each.name for each in inputs[:1] if len(inputs) == 1}
        row, run_s = self._first_row()
        until = time.perf_counter() + SEARCH_S
        for tensor_spec in inputs:
            dtype = DTYPES[tensor_spec.datatype]
            if dtype.kind in "iu" and tensor_spec.datatype != "UINT8":
                largest = min(MAX_INDEX, int(np.iinfo(dtype).max))
                self._find_top(tensor_spec.name, row, (heights or {}).get(tensor_spec.name, 0), largest, (run_s, until))

    def rows(self, count: int, seed: int, style: int = 0) -> list[Row]:
        """Return usual rows: the examples first, then shuffled ones; or else random ones, with floats of a style."""
        random = np.random.default_rng(seed)
        if self._examples:
            shuffled = [
                {name: random.permuted(array.ravel()).reshape(array.shape) for name, array in row.items()}
                for row in (self._examples[at % len(self._examples)] for at in range(count))
            ]
            return [*self._examples[:count], *shuffled][:count]
        return [self._random_row(random, self.side, style) for _ in range(count)]

    def smaller(self, row: Row) -> Row:
        """Return a row of smaller numbers and indices."""
        return {name: self._scale(name, array, 1 / SCALE) for name, array in row.items()}

    def larger(self, row: Row) -> Row:
        """Return a row of larger numbers and indices."""
        return {name: self._scale(name, array, SCALE) for name, array in row.items()}

    def extremes(self, row: Row) -> list[Row]:
        """Return two rows with values so far from usual that they change any result they affect."""
        return [{name: self._extreme(name, array, at) for name, array in row.items()} for at in (0, 1)]

    def _first_row(self) -> tuple[Row, float]:
        """Return a row, and the time in seconds that it runs, if a size or an integer's range depends on it."""
        is_fixed = bool(self._examples) or all(each.is_fixed for each in self._inputs)
        guesses = (0,) if is_fixed else GUESSES
        for side in guesses:
            row = dict(self._examples[0]) if self._examples else self._random_row(np.random.default_rng(0), side, 0)
            if is_fixed and not any(array.dtype.kind in "iu" for array in row.values()):
                return row, 0.0  # nothing to find by running
            started = time.perf_counter()
            try:
                self._run(row)
            except Exception:
                if side == guesses[-1]:
                    raise
            else:
                self.side = side
                return row, time.perf_counter() - started
        raise AssertionError

    def _find_top(self, name: str, row: Row, height: int, largest: int, times: tuple[float, float]) -> None:
        """Find the largest value of an integer: the table's last row, or the last of 2, 4, 8, … that runs."""
        found = int(max((each[name].max(initial=1) for each in self._examples), default=1))
        if height and self._runs(name, row, height - 1):
            self.tops[name] = height - 1
            self.indices.add(name)
            return
        self.tops[name] = found
        if "mask" in name.lower() or not self._find_indices:
            return
        (run_s, until), value = times, 2
        while value <= largest:
            started = time.perf_counter()
            if not self._runs(name, row, value):
                self.indices.add(name)
                return
            now = time.perf_counter()
            if now - started > run_s * SLOWDOWN + SLOW_RUN_S or now > until:
                break
            self.tops[name], value = value, value * 2
        self.tops[name] = min(self.tops[name], MAX_NUMBER)

    def _runs(self, name: str, row: Row, value: int) -> bool:
        values = np.random.default_rng(0).integers(0, value, row[name].shape, endpoint=True)
        values.flat[:1] = value
        try:
            self._run(row | {name: values.astype(row[name].dtype)})
        except Exception as error:
            if getattr(error, "fault", "input") == "device":
                raise
            return False
        return True

    def _random_row(self, random: np.random.Generator, side: int, style: int) -> Row:
        return {
            tensor_spec.name: self._values(
                tensor_spec, [size if size != -1 else side for size in tensor_spec.shape], random, style
            )
            for tensor_spec in self._inputs
        }

    def _values(self, tensor_spec: TensorSpec, shape: Sequence[int], random: np.random.Generator, style: int) -> Array:
        dtype = DTYPES[tensor_spec.datatype]
        if dtype.kind == "f":
            return STYLES[style](random, shape).astype(dtype)
        if dtype.kind == "O":
            return random.choice(np.array(WORDS, object), shape)
        if tensor_spec.datatype == "UINT8":  # pixels
            return random.integers(0, 256, shape).astype(dtype)
        top = self.tops.get(tensor_spec.name, 1)
        if tensor_spec.name not in self.indices:
            top = min(top, STYLE_NUMBERS[style])  # of the first style, 0 and 1 suit all counts and flags
        return random.integers(0, top, shape, endpoint=True).astype(dtype)

    def _scale(self, name: str, array: Array, factor: float) -> Array:
        if array.dtype.kind == "f":
            return _multiply(array, factor)
        if array.dtype.kind == "O":
            return array
        top = 255 if array.dtype == np.uint8 else self.tops.get(name, 0) if name in self.indices else 0
        if not top:
            return array
        smaller: Array = array // array.dtype.type(2)
        return smaller if factor < 1 else array.dtype.type(top) - np.minimum(smaller, array.dtype.type(top))

    def _extreme(self, name: str, array: Array, at: int) -> Array:
        if array.dtype.kind == "f":
            return _multiply(array, AMPLIFICATION[at])
        if array.dtype.kind == "b":
            return ~array
        if array.dtype.kind == "O":
            return np.full_like(array, WORDS[at])
        return np.full_like(array, 0 if at else 255 if array.dtype == np.uint8 else self.tops.get(name, 1))


def make_rows(inputs: Sequence[TensorSpec], count: int, seed: int, run: Callable[[Row], object]) -> Samples:
    """Generate `count` usual rows. `run` must run one row; raises its error if no size of free dimensions works.

    Integers are 0 and 1.
    """
    generator = RowGenerator(inputs, run, find_indices=False)
    return Samples(generator.rows(count, seed), generator.side)


def nan_row(row: Row) -> Row | None:
    """Return a row of NaN, which changes any result it leaks into; None if no input is floating point."""
    if not any(array.dtype.kind == "f" for array in row.values()):
        return None
    return {name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array for name, array in row.items()}


def _multiply(array: Array, factor: float) -> Array:
    limits = np.finfo(array.dtype)
    multiplied: Array = np.clip(array.astype(np.float64) * factor, limits.min, limits.max).astype(array.dtype)
    return multiplied
