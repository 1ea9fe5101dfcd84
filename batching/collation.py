"""Folds items into one batch and unfolds its outputs: same length, same order, or an error that says so."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


class CollationError(Exception):
    """The model's outputs do not match the batch that went in: no output may be given to any rider."""


def group_of(arrays: Arrays) -> Hashable:
    """Tell which items can ride together: equal names, types and shapes."""
    return tuple([(name, array.dtype.str, array.shape) for name, array in arrays.items()])


def stack_items(items: Sequence[Arrays], padded_size: int = 0) -> dict[str, NDArray[np.generic]]:
    """Stack items of one group along a new first dimension, in order: n of `shape` make one `(n, *shape)`.

    With more `seats` than items the last one sits in those left over: a model that takes it takes it twice.
    """
    if len(items) == 1 and padded_size <= 1:
        return {name: array[np.newaxis] for name, array in items[0].items()}
    seated = [*items, *[items[-1]] * (padded_size - len(items))]
    return {name: np.stack([item[name] for item in seated]) for name in items[0]}


def split_outputs(outputs: Arrays, count: int, padded_size: int = 0) -> list[dict[str, NDArray[np.generic]]]:
    """Cut outputs (n, …) into `count` items in the order they went in; raises CollationError for any other length."""
    expected = max(count, padded_size)
    for name, array in outputs.items():
        rows = array.shape[0] if array.ndim else "no"
        if rows != expected:
            raise CollationError(
                f"output {name!r} has {rows} rows for a batch of {expected} (its shape is {array.shape})"
            )
    return [{name: array[row] for name, array in outputs.items()} for row in range(count)]
