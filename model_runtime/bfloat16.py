"""Convert BF16 to float32 arrays and back, because numpy has no such type.

In this package an array of BF16 is float32. Its values are rounded where they leave it: for a run, and as bytes.
"""

from typing import Final

import numpy as np

from model_runtime.tensor_spec import Array

BF16: Final = "BF16"
_QUIET: Final = 0x40  # a bit of a NaN: without any bit it would be infinity
_HALF: Final = 0x7FFF


def from_bf16(bits: Array) -> Array:
    """Return the values of BF16 numbers, which are the upper halves of float32. `bits`: uint16, of any shape."""
    values: Array = (bits.astype("<u4") << 16).view("<f4")
    return values


def to_bf16(array: Array) -> Array:
    """Return the BF16 numbers nearest to float32 numbers, as uint16: ties to even, and too large ones to infinity."""
    bits = np.asarray(array, "<f4", order="C").view("<u4")
    upper = bits >> 16
    rounded = (bits + _HALF + (upper & 1)) >> 16
    nan = upper | np.where(upper & 0x7F, 0, _QUIET)
    numbers: Array = np.where(np.isnan(array), nan, rounded).astype("<u2")
    return numbers
