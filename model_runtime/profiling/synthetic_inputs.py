"""Made-up rows to try a model with: the same for the same seed, and company that would show in anyone's answer."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

Row = dict[str, Array]

# Free dimensions are guessed: the first of these that a row runs with.
GUESSES: Final = (16, 32, 64, 224, 128, 8, 1)
AMPLIFICATION: Final = 1000  # times a usual number


class Samples(NamedTuple):
    """`side`: what free dimensions were taken to be, 0 where there are none."""

    rows: list[Row]
    side: int


def make_rows(inputs: Sequence[TensorSpec], count: int, seed: int, run: Callable[[Row], object]) -> Samples:
    """`count` rows without batch dimension. `run` runs one of them; raises its last error where none do."""
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
    """A row whose numbers drown others where they meet."""
    return {name: _louder(array) for name, array in row.items()}


def nan_row(row: Row) -> Row | None:
    """A row of NaN: the least touch of it shows. None where there is no such number."""
    if not any(array.dtype.kind == "f" for array in row.values()):
        return None
    return {name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array for name, array in row.items()}


def _values(tensor_spec: TensorSpec, side: int, random: np.random.Generator) -> Array:
    shape, dtype = [one if one != -1 else side for one in tensor_spec.shape], DTYPES[tensor_spec.datatype]
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if tensor_spec.datatype == "UINT8":  # pixels
        return random.integers(0, 256, shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)  # indices into whatever it may be, counts, flags


def _louder(array: Array) -> Array:
    if array.dtype.kind == "b":
        return ~array
    if array.dtype.kind != "f":
        return array.max(keepdims=True) - array if array.size else array
    louder: Array = array * array.dtype.type(AMPLIFICATION)
    return louder
