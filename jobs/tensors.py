"""Named tensors as bytes, without numpy: what a tensor job's input is while it waits.

A frame is one JSON header and the raw little-endian values behind it: the gateway checks sizes without reading values,
and the worker maps arrays onto the same bytes. Data types and sizes: Open Inference Protocol (KServe v2).
"""

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import orjson

from jobs.errors import Refused

# datatype → (bytes per value, struct code of one value)
DATATYPES: dict[str, tuple[int, str]] = {
    "BOOL": (1, "?"),
    "UINT8": (1, "B"),
    "UINT16": (2, "H"),
    "UINT32": (4, "I"),
    "UINT64": (8, "Q"),
    "INT8": (1, "b"),
    "INT16": (2, "h"),
    "INT32": (4, "i"),
    "INT64": (8, "q"),
    "FP16": (2, "e"),
    "FP32": (4, "f"),
    "FP64": (8, "d"),
}
_HEADER = struct.Struct("<I")


class Tensor(NamedTuple):
    """One tensor, without the batch dimension. `data` holds the values row-major, little-endian."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def size_bytes(datatype: str, shape: Sequence[int]) -> int:
    """Bytes that a tensor of this type and shape takes."""
    return DATATYPES[datatype][0] * prod(shape)


def from_numbers(name: str, datatype: str, shape: tuple[int, ...], values: Sequence[float]) -> Tensor:
    """A tensor from a flat list of numbers; raises Refused for a wrong count, type or range."""
    _, code = DATATYPES[datatype]
    if len(values) != prod(shape):
        raise Refused(
            "invalid_input", f"tensor {name!r}: shape {list(shape)} takes {prod(shape)} values, not {len(values)}"
        )
    try:
        data = struct.pack(f"<{len(values)}{code}", *values)
    except (TypeError, OverflowError, struct.error) as error:
        raise Refused("invalid_input", f"tensor {name!r}: a value does not fit {datatype}: {error}") from error
    return Tensor(datatype, shape, data)


def to_numbers(tensor: Tensor) -> list[float]:
    """The values as Python numbers, flat and row-major."""
    code = DATATYPES[tensor.datatype][1]
    return list(struct.unpack(f"<{prod(tensor.shape)}{code}", tensor.data))


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """One frame; the shapes were checked against the data before."""
    header = orjson.dumps({name: [t.datatype, list(t.shape)] for name, t in tensors.items()})
    return b"".join((_HEADER.pack(len(header)), header, *(t.data for t in tensors.values())))


def unpack(frame: bytes) -> dict[str, Tensor]:
    """The tensors of a frame, as views on its bytes; raises Refused where the frame contradicts itself."""
    try:
        (length,) = _HEADER.unpack_from(frame)
        header = orjson.loads(frame[4 : 4 + length])
        at, view, tensors = 4 + length, memoryview(frame), {}
        for name, (datatype, shape) in header.items():
            end = at + size_bytes(datatype, shape)
            tensors[name] = Tensor(datatype, tuple(shape), view[at:end])
            at = end
    except (struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Refused("invalid_input", f"not a tensor frame: {error}") from error
    if at != len(frame):
        raise Refused("invalid_input", f"a tensor frame of {len(frame)} bytes that describes {at}")
    return tensors
