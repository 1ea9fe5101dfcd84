"""Encode a task's output as JSON, in slices, so that other threads run in between and the size stays bounded.

One call of orjson holds the interpreter until it returns: 60 MB of numbers would stop a worker's event loop for 200 ms.
"""

import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import orjson

from jobs.contract.errors import Refused
from jobs.contract.tensors import pack_texts
from model_runtime.tensor_spec import Array

SLICE_VALUES: Final = 8192  # JSON values that are encoded at a time: about 0.3 ms
PAUSE_BYTES: Final = 1 << 16  # JSON between two pauses: about 0.3 ms
PAUSE_S: Final = 0.0003  # a waiting thread runs in a pause, and not only after the switch interval
SLICE_BYTES: Final = 3 << 16  # bytes that are encoded as base64 at a time; a multiple of 3, so that slices join
TEXT_PER_VALUE: Final = 16  # characters of a text that take as long as one number
_CONTAINERS: Final = (dict, list, tuple, np.ndarray)


class Base64:
    """An array in an output, written as the base64 text of its little-endian bytes."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    def raw(self) -> bytes:
        """Return the values as little-endian bytes, row-major; texts as in a BYTES tensor."""
        if self.array.dtype.kind == "O":
            return pack_texts(self.array.ravel().tolist())
        return np.ascontiguousarray(self.array, self.array.dtype.newbyteorder("<")).tobytes()


def encode_output(output: Any, max_bytes: int, chunk_bytes: int) -> list[bytes]:
    """Return the JSON of an output, in chunks of `chunk_bytes`; the last one may be shorter.

    Arrays become (nested) lists of numbers; NaN and infinity become null. Raises Refused("output_too_large") as soon as
    there are more than `max_bytes`, TypeError for values that are no JSON.
    """
    chunks: list[bytes] = []
    rest, size, pause_at = bytearray(), 0, PAUSE_BYTES
    for piece in _encode(output):
        size += len(piece)
        if size > max_bytes:
            message = f"the output has more than {max_bytes} bytes, the limit of its model (max_output_bytes)"
            raise Refused("output_too_large", message, limit=max_bytes)
        if size >= pause_at:
            pause_at = size + PAUSE_BYTES
            time.sleep(PAUSE_S)
        rest += piece
        while len(rest) > chunk_bytes:
            chunks.append(bytes(rest[:chunk_bytes]))
            del rest[:chunk_bytes]
    return [*chunks, bytes(rest)]


def encode_rows(array: Array) -> list[bytes]:
    """Return the JSON of the values of each row, flat and without brackets, as `encode_output` writes an array.

    A row has at most SLICE_VALUES values. Raises TypeError if orjson cannot encode the array's type.
    """
    rows, values = len(array), array[0, ...].size
    flat = np.ascontiguousarray(array).reshape(rows, values)
    if flat.dtype.kind == "O":
        return [orjson.dumps(row)[1:-1] for row in flat.tolist()]
    if flat.size <= SLICE_VALUES:
        return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
    middle = rows // 2
    return encode_rows(flat[:middle]) + encode_rows(flat[middle:])


def encode_base64_rows(array: Array) -> list[bytes]:
    """Return the base64 text of the values of each row, without quotes, as `encode_output` writes a Base64."""
    if array.dtype.kind == "O":
        return [b64encode(Base64(row).raw()) for row in array.reshape(len(array), -1)]
    raw = Base64(array).raw()
    size = len(raw) // len(array)
    return [b64encode(raw[first : first + size]) for first in range(0, len(raw), size)] if size else [b""] * len(array)


def _encode(value: Any) -> Iterator[bytes]:
    """Yield the JSON of a value in pieces of about a slice."""
    if _weight(value) <= SLICE_VALUES:
        yield _dump(value)
    elif isinstance(value, Base64):
        raw = value.raw()
        yield b'"'
        for first in range(0, len(raw), SLICE_BYTES):
            yield b64encode(raw[first : first + SLICE_BYTES])
        yield b'"'
    elif type(value) is dict and all(type(key) is str for key in value):
        separator = b"{"
        for key, child in value.items():
            yield separator + orjson.dumps(key) + b":"
            yield from _encode(child)
            separator = b","
        yield b"}"
    elif isinstance(value, np.ndarray) and value.ndim == 1:
        yield from _encode_slices(np.ascontiguousarray(value))
    elif type(value) in _CONTAINERS and isinstance(value[0], _CONTAINERS):
        separator = b"["
        for child in value:
            yield separator
            yield from _encode(child)
            separator = b","
        yield b"]"
    elif type(value) in (list, tuple):
        yield from _encode_slices(value)
    else:
        yield _dump(value)


def _encode_slices(values: Sequence[Any] | Array) -> Iterator[bytes]:
    for first in range(0, len(values), SLICE_VALUES):
        yield (b"," if first else b"[") + _dump(values[first : first + SLICE_VALUES])[1:-1]
    yield b"]"


def _weight(value: Any) -> int:
    """Return about how many values an output has; counts no further once it is more than a slice."""
    kind = type(value)
    if kind is dict:
        children = value.values()
    elif (kind is list or kind is tuple) and value and isinstance(value[0], _CONTAINERS):
        children = value
    elif kind is list or kind is tuple or kind is np.ndarray:
        return len(value) if kind is not np.ndarray else value.size
    elif kind is Base64:
        return int(value.array.nbytes) // TEXT_PER_VALUE
    else:
        return len(value) // TEXT_PER_VALUE if kind is str else 1
    weight = 0
    for child in children:
        weight += _weight(child)
        if weight > SLICE_VALUES:
            break
    return weight


def _dump(value: Any) -> bytes:
    try:
        return orjson.dumps(value, _dump_other, orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # also for arrays of another byte order
        return orjson.dumps(value, _dump_other)


def _dump_other(value: Any) -> Any:
    """Convert what orjson does not encode: base64, and arrays that are not contiguous or not of a native type."""
    if isinstance(value, Base64):
        return b64encode(value.raw()).decode()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    message = f"{type(value).__name__} is no JSON"
    raise TypeError(message)
