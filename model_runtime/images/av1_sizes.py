"""Read the sizes of the frames in AV1 data from its sequence headers, before it is decoded."""

from collections.abc import Callable, Iterator
from typing import Final

_SEQUENCE_HEADER: Final = 1
_FRAMES: Final = (3, 6)  # units that begin a frame: its header, and a whole frame
_WITH_EXTENSION, _WITH_SIZE = 4, 2  # bits of the first byte of a unit
_MAX_SIZE_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 400  # the longest sequence header has its sizes in the first 387
_MAX_ZEROS: Final = 31  # before a number of variable length
_STEPS: Final = 2  # of a sequence header, and of each of its operating points; a unit has one for each byte of its head
_TIERED_LEVEL: Final = 7  # levels above have a bit for the tier


def read_number(data: bytes | memoryview, at: int, size: int) -> int:
    """Return the number in `size` bytes. Raises IndexError if there are fewer."""
    if at + size > len(data):
        raise IndexError(at)
    return int.from_bytes(data[at : at + size], "big")


def read_pixel_counts(data: memoryview, count: Callable[[int], object]) -> Iterator[int]:
    """Yield for each frame the most pixels that its sequence header allows. Raises IndexError, ValueError.

    A decoder may decode many frames for one picture. `count` gets the steps that this takes, and raises an error when
    the file has taken too many.
    """
    at = 0
    pixels: int | None = None
    while at < len(data):
        begin, head = at, data[at]
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
        count(at - begin)
        if size > len(data) - at:
            raise ValueError("a unit ends after the data")
        kind = head >> 3 & 15
        if kind == _SEQUENCE_HEADER:
            count(_STEPS)
            pixels = _pixels(_Bits(data[at : at + min(size, _MAX_HEADER_BYTES)]), count)
        elif kind in _FRAMES:
            if pixels is None:
                raise ValueError("a frame has no sequence header")
            yield pixels
        at += size


class _Bits:
    """A reader of bits, the highest first."""

    def __init__(self, data: memoryview) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def __call__(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError("the sequence header is too short")
        return self._value >> self._left & (1 << count) - 1

    def skip_variable(self) -> None:
        """Skip a number that begins with as many zeros as it has bits after its first one."""
        zeros = self._left - (self._value & (1 << self._left) - 1).bit_length()
        if zeros > _MAX_ZEROS:
            raise ValueError("a number of variable length is too long")
        self(2 * zeros + 1)


def _pixels(bits: _Bits, count: Callable[[int], object]) -> int:
    """Return the product of the largest width and height (AV1 specification, 5.5)."""
    bits(4)  # profile, still picture
    if bits(1):
        bits(5)
    else:
        _skip_operating_points(bits, count)
    width_bits, height_bits = bits(4) + 1, bits(4) + 1
    return (bits(width_bits) + 1) * (bits(height_bits) + 1)


def _skip_operating_points(bits: _Bits, count: Callable[[int], object]) -> None:
    delay_bits = 0
    if bits(1):  # timing
        bits(64)
        if bits(1):  # equal intervals
            bits.skip_variable()
        if bits(1):  # decoder model
            delay_bits = bits(5) + 1
            bits(42)
    has_display_delay = bits(1)
    points = bits(5) + 1
    count(_STEPS * points)
    for _ in range(points):
        bits(12)
        if bits(5) > _TIERED_LEVEL:
            bits(1)
        if delay_bits and bits(1):
            bits(2 * delay_bits + 1)
        if has_display_delay and bits(1):
            bits(4)
