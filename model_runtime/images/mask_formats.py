"""Encode masks: as a PNG of class indices, or the pixels of each class as run lengths in the form of COCO."""

import struct
import zlib
from collections.abc import Iterable
from math import ceil
from typing import Final, NamedTuple

import numpy as np

from jobs.contract.errors import Refused
from model_runtime.images.mask import NO_CLASS
from model_runtime.tensor_spec import Array

MAX_RUNS: Final = 4_000_000  # of one mask: they take some 200 MB while they are encoded
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_UP: Final = 2  # the filter of rows that are stored as differences from the row above
_COUNTED: Final = 1 << 20  # pixels that are counted at a time
_LEVEL: Final = 6  # of zlib's compression
_DIGIT_BITS, _MORE, _SIGN, _FIRST_DIGIT = 5, 0x20, 0x10, 48
_MAX_DIGITS: Final = 7


class EncodedMask(NamedTuple):
    """`areas`: the number of pixels by class. `png`: the file; `runs`: run lengths by class. One of them is empty."""

    areas: dict[int, int]
    png: bytes
    runs: dict[int, str]


def encode_png(strips: Iterable[Array], width: int, height: int) -> EncodedMask:
    """Return a PNG of 8-bit gray, in which each pixel's value is its class."""
    areas, packer = np.zeros(NO_CLASS + 1, np.int64), zlib.compressobj(_LEVEL)
    packed, above = [], np.zeros(width, np.uint8)
    for strip in strips:
        for part in np.array_split(strip.ravel(), ceil(strip.size / _COUNTED)):  # it makes them 8 times as large
            areas += np.bincount(part, minlength=len(areas))
        rows = np.empty((len(strip), 1 + width), np.uint8)
        rows[:, 0] = _UP
        np.subtract(strip[0], above, out=rows[0, 1:])
        np.subtract(strip[1:], strip[:-1], out=rows[1:, 1:])
        above = strip[-1].copy()
        packed.append(packer.compress(rows.data))
    packed.append(packer.flush())
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = (_chunk(b"IHDR", head), *(_chunk(b"IDAT", part) for part in packed if part), _chunk(b"IEND", b""))
    return EncodedMask(_present(areas), b"".join([_SIGNATURE, *chunks]), {})


def _chunk(name: bytes, body: bytes) -> bytes:
    return b"".join([struct.pack(">I", len(body)), name, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))])


def encode_runs(strips: Iterable[Array], width: int, height: int) -> EncodedMask:
    """Return the run lengths of each class, as the text of COCO's `counts`, column by column.

    Raises Refused("output_too_large") for more than MAX_RUNS.
    """
    mask, top = np.empty((width, height), np.uint8), 0
    for strip in strips:
        mask[:, top : top + len(strip)] = strip.T
        top += len(strip)
    flat = mask.ravel()
    changes = flat[1:] != flat[:-1]
    if (count := int(np.count_nonzero(changes)) + 1) > MAX_RUNS:
        message = f"the mask has {count} runs of one class; allowed: {MAX_RUNS}, or the format png"
        raise Refused("output_too_large", message, limit=MAX_RUNS)
    begins = np.concatenate([[0], np.flatnonzero(changes) + 1])
    ends, classes = np.append(begins[1:], flat.size), flat[begins]
    areas = np.bincount(classes, weights=ends - begins, minlength=NO_CLASS + 1).astype(np.int64)
    runs = {}
    for number in (present := _present(areas)):
        own = classes == number
        edges = np.stack([begins[own], ends[own]], axis=1).ravel()
        tail = [] if edges[-1] == flat.size else [flat.size]
        runs[number] = _to_text(np.diff(np.concatenate([[0], edges, tail])))
    return EncodedMask(present, b"", runs)


def _to_text(counts: Array) -> str:
    """Return run lengths as COCO writes them: each less the one before the last, in digits of 5 bits and a sign."""
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2].astype(np.int64)
    digits = np.zeros((len(rest), _MAX_DIGITS), np.uint8)
    open_ = np.ones(len(rest), bool)
    for at in range(_MAX_DIGITS):
        digit = rest & ((1 << _DIGIT_BITS) - 1)
        rest >>= _DIGIT_BITS
        more = np.where(digit & _SIGN, rest != -1, rest != 0)
        digits[:, at] = np.where(open_, (digit | np.where(more, _MORE, 0)) + _FIRST_DIGIT, 0)
        open_ &= more
    return digits[digits > 0].tobytes().decode("ascii")


def _present(areas: Array) -> dict[int, int]:
    return {number: int(areas[number]) for number in np.flatnonzero(areas[:NO_CLASS]).tolist()}
