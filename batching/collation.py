"""Says which items can share a batch; stacks them, and splits the outputs: same number, same order, or an error."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from batching.padding import Padding

Arrays = Mapping[str, NDArray[np.generic]]


class CollationError(Exception):
    """The model's outputs do not match the batch; no output may be returned."""


def group_of(arrays: Arrays, padding: Padding | None = None) -> Hashable:
    """Return the group of an item: items with equal names, types and shapes can share a batch.

    With padding, the group has -1 in place of the length.
    """
    if padding is None:
        return tuple([(name, array.dtype.str, array.shape) for name, array in arrays.items()])
    return tuple([(name, array.dtype.str, padding.group_shape(name, array.shape)) for name, array in arrays.items()])


def stack_items(
    items: Sequence[Arrays], padded_size: int = 0, padding: Padding | None = None
) -> dict[str, NDArray[np.generic]]:
    """Stack n items of one group along a new first dimension, in order: arrays `shape` become `(n, *shape)`.

    If `padded_size` exceeds n, the last item is repeated in the padding rows. `padding`: items of different lengths.
    """
    rows = [*items, *[items[-1]] * (padded_size - len(items))]
    if padding is not None and padding.is_used:
        return padding.stack(rows)
    if len(rows) == 1:
        return {name: array[np.newaxis] for name, array in items[0].items()}
    return {name: _stack([item[name] for item in rows]) for name in items[0]}


def stack_blocks(blocks: Sequence[Arrays], padded_size: int = 0) -> Arrays:
    """Stack blocks of rows of one group, in order: arrays `(k, *shape)` each become `(n, *shape)`.

    If `padded_size` exceeds n, the last row is repeated in the padding rows. A block alone is not copied.
    """
    missing = padded_size - sum([len(next(iter(block.values()))) for block in blocks])
    if missing > 0:
        blocks = [*blocks, *[{name: array[-1:] for name, array in blocks[-1].items()}] * missing]
    if len(blocks) == 1:
        return blocks[0]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _stack(arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """Stack arrays of one type and shape. For small arrays `np.stack` takes four times as long."""
    shape = arrays[0].shape
    return np.concatenate(arrays).reshape(len(arrays), *shape) if shape else np.stack(arrays)


def split_outputs(outputs: Arrays, count: int, padded_size: int = 0) -> list[dict[str, NDArray[np.generic]]]:
    """Split outputs `(n, …)` into `count` items in input order; raises CollationError if n is not the batch's size."""
    check_row_count(outputs, count, padded_size)
    # With `...` a row of texts without dimensions is an array too.
    return [{name: array[row, ...] for name, array in outputs.items()} for row in range(count)]


def check_row_count(outputs: Arrays, count: int, padded_size: int = 0) -> None:
    """Raise CollationError if an output does not have one row for each of the batch's `count` items and its padding."""
    expected = max(count, padded_size)
    for name, array in outputs.items():
        row_count = array.shape[0] if array.ndim else "no"
        if row_count != expected:
            raise CollationError(
                f"output {name!r} has {row_count} rows for a batch of {expected} (its shape is {array.shape})"
            )
