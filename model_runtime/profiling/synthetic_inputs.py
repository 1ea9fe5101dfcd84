"""Generate synthetic rows for checking a model: random rows by seed, and noise rows that expose leaks."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

Row = dict[str, Array]

# Sizes to try for free dimensions, until a row runs.
GUESSES: Final = (16, 32, 64, 224, 128, 8, 1)
AMPLIFICATION: Final = 1000  # times a usual number


class Samples(NamedTuple):
    """`side`: the size used for free dimensions, 0 if there are none."""

    rows: list[Row]
    side: int


def make_rows(inputs: Sequence[TensorSpec], count: int, seed: int, run: Callable[[Row], object]) -> Samples:
    """Generate `count` rows, without the batch dimension. `run` must run one row; raises its error if no size works."""
    guesses = (0,) if all(tensor_spec.is_fixed for tensor_spec in inputs) else GUESSES
    for side in guesses:
        random = np.random.default_rng(seed)
        rows = [{tensor_spec.name: _values(tensor_spec, side, random) for tensor_spec in inputs} for _ in range(count)]
        try:
            run(rows[0])
        except Exception:
            if side == guesses[-1]:
                raise
        else:
            return Samples(rows, side)
    raise AssertionError


def amplify_row(row: Row) -> Row:
    """Return a row with values so large that they change any result they leak into."""
    return {name: _amplify(array) for name, array in row.items()}


def nan_row(row: Row) -> Row | None:
    """Return a row of NaN, which changes any result it leaks into; None if no input is floating point."""
    if not any(array.dtype.kind == "f" for array in row.values()):
        return None
    return {name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array for name, array in row.items()}


def _values(tensor_spec: TensorSpec, side: int, random: np.random.Generator) -> Array:
    shape = [size if size != -1 else side for size in tensor_spec.shape]
    return random_values(tensor_spec.datatype, shape, random)


def random_values(datatype: str, shape: Sequence[int], random: np.random.Generator) -> Array:
    """Return values of usual size."""
    dtype = DTYPES[datatype]
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if datatype == "UINT8":  # pixels
        return random.integers(0, 256, shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)  # indices, counts or flags: 0 and 1 suit them all


def _amplify(array: Array) -> Array:
    if array.dtype.kind == "b":
        return ~array
    if array.dtype.kind != "f":
        return array.max(keepdims=True) - array if array.size else array
    amplified: Array = array * array.dtype.type(AMPLIFICATION)
    return amplified
