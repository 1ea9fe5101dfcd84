"""Pads items of different lengths into one batch with its mask or lengths, and cuts outputs back to their lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Fill = Literal["mask", "length"]


class PaddedInput(NamedTuple):
    """`axis`: the dimension of an item's array whose size is the length. `value`: what padding is filled with."""

    axis: int
    value: Any = 0


class FilledInput(NamedTuple):
    """An input that is made from the lengths of a batch: a mask `(n, L)`, 1 for content; or lengths `(n, *shape)`."""

    fill: Fill
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()  # of an item's length: () or (1,)

    def make(self, lengths: Sequence[int], longest: int) -> Array:
        """Return the input of a batch of items of these lengths, padded to `longest`."""
        known = np.asarray(lengths)
        if self.fill == "mask":
            return (np.arange(longest) < known[:, np.newaxis]).astype(self.dtype)
        return known.astype(self.dtype).reshape(len(lengths), *self.shape)


@dataclass(frozen=True)
class Padding:
    """How a model's items of different lengths are padded.

    `inputs`, `outputs`: those whose size along an axis is the item's length. `filled`: inputs that items lack.
    `multiple`: lengths are rounded up to it, but not beyond `longest` (0: any length). `is_used`: items are padded;
    False: they have a length, and only items of one shape run together.
    """

    inputs: Mapping[str, PaddedInput]
    outputs: Mapping[str, int]
    filled: Mapping[str, FilledInput]
    multiple: int = 1
    longest: int = 0
    is_used: bool = True

    def length_of(self, arrays: Mapping[str, Array]) -> int:
        """Return the length of an item. Raises ValueError if its arrays differ in it, or if it is 0."""
        sizes = {name: arrays[name].shape[padded.axis] for name, padded in self.inputs.items()}
        length: int = next(iter(sizes.values()))
        if len(sizes) > 1 and any(size != length for size in sizes.values()):
            message = f"the inputs differ in length: {', '.join(f'{name} has {size}' for name, size in sizes.items())}"
            raise ValueError(f"{message}; allowed: one length for all of them")
        if length == 0:
            message = f"the length of {next(iter(sizes))} is 0; allowed: at least 1"
            raise ValueError(message)
        return length

    def padded_length(self, length: int) -> int:
        """Return the length that an item is padded to if it runs alone."""
        if not self.is_used:
            return length
        padded = -(-length // self.multiple) * self.multiple
        return max(length, min(padded, self.longest)) if self.longest else padded

    def group_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an item's array without its length, by which items can share a batch."""
        if not self.is_used or name not in self.inputs:
            return shape
        axis = self.inputs[name].axis
        return (*shape[:axis], -1, *shape[axis + 1 :])

    def stack(self, items: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Stack n items along a new first dimension, padded to the longest one."""
        lengths = [self.length_of(item) for item in items]
        longest = self.padded_length(max(lengths))
        stacked = {
            name: _stack_padded([item[name] for item in items], self.inputs[name], lengths, longest)
            if name in self.inputs
            else np.stack([item[name] for item in items])
            for name in items[0]
        }
        return stacked | {name: filled.make(lengths, longest) for name, filled in self.filled.items()}

    def cut(self, outputs: Mapping[str, Array], length: int) -> dict[str, Array]:
        """Return an item's outputs without those of padding."""
        return {
            name: array[(*[slice(None)] * self.outputs[name], slice(length))] if name in self.outputs else array
            for name, array in outputs.items()
        }


def _stack_padded(arrays: Sequence[Array], padded: PaddedInput, lengths: Sequence[int], longest: int) -> Array:
    axis, shape = padded.axis, arrays[0].shape
    if all(length == longest for length in lengths):
        return np.concatenate(arrays).reshape(len(arrays), *shape) if shape else np.stack(arrays)
    batch = np.full((len(arrays), *shape[:axis], longest, *shape[axis + 1 :]), padded.value, arrays[0].dtype)
    if axis == 0:  # one assignment for all rows, which costs less than one for each
        batch[np.arange(longest) < np.asarray(lengths)[:, np.newaxis]] = np.concatenate(arrays)
        return batch
    for row, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
        np.moveaxis(batch[row], axis, 0)[:length] = np.moveaxis(array, axis, 0)
    return batch
