"""Read the sizes of the pictures in AV1 data from its sequence headers, before it is decoded."""

from collections.abc import Iterator
from typing import Final

from model_runtime.images.stripped_image import too_costly_error

MAX_UNITS: Final = 10_000  # of one picture; encoders write a few
_SEQUENCE_HEADER: Final = 1
_WITH_EXTENSION, _WITH_SIZE = 4, 2  # bits of the first byte of a unit
_MAX_SIZE_BYTES: Final = 8
_TIERED_LEVEL: Final = 7  # levels above have a bit for the tier


def read_number(data: bytes, at: int, size: int) -> int:
    """Return the number in `size` bytes. Raises IndexError if there are fewer."""
    if at + size > len(data):
        raise IndexError(at)
    return int.from_bytes(data[at : at + size], "big")


def read_sizes(data: bytes) -> Iterator[int]:
    """Yield the most pixels of a picture by each sequence header. Raises Refused, IndexError, ValueError."""
    at = units = 0
    while at < len(data):
        units += 1
        if units > MAX_UNITS:
            raise too_costly_error("AV1 data", f"{MAX_UNITS} units", MAX_UNITS)
        head = data[at]
        at += 2 if head & _WITH_EXTENSION else 1
        size, shift = len(data) - at, 0
        if head & _WITH_SIZE:
            size = 0
            for _ in range(_MAX_SIZE_BYTES):
                byte = data[at]
                size |= (byte & 0x7F) << shift
                at, shift = at + 1, shift + 7
                if byte < 0x80:
                    break
        if size > len(data) - at:
            raise ValueError("a unit ends after the data")
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield _pixels(_Bits(data[at : at + size]))
        at += size


class _Bits:
    """A reader of bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __call__(self, count: int) -> int:
        end = self._at + count
        value = read_number(self._data, self._at >> 3, (end + 7 >> 3) - (self._at >> 3))
        self._at = end
        return value >> -end % 8 & (1 << count) - 1


def _pixels(bits: _Bits) -> int:
    """Return the product of the largest width and height (AV1 specification, 5.5)."""
    bits(4)  # profile, still picture
    if bits(1):
        bits(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits(4) + 1, bits(4) + 1
    return (bits(width_bits) + 1) * (bits(height_bits) + 1)


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits(1):  # timing
        bits(64)
        if bits(1):  # equal intervals: a number that begins with as many zeros as it has bits after its first one
            zeros = 0
            while not bits(1):
                zeros += 1
            bits(zeros)
        if bits(1):  # decoder model
            delay_bits = bits(5) + 1
            bits(42)
    has_display_delay = bits(1)
    for _ in range(bits(5) + 1):
        bits(12)
        if bits(5) > _TIERED_LEVEL:
            bits(1)
        if delay_bits and bits(1):
            bits(2 * delay_bits + 1)
        if has_display_delay and bits(1):
            bits(4)
