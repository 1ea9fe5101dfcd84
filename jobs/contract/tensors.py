"""Named tensors as bytes, without numpy: what a tensor job's input is while it waits.

A frame is one JSON header and the raw little-endian values behind it: the gateway checks sizes without reading values,
and the worker maps arrays onto the same bytes. Data types and sizes: Open Inference Protocol (KServe v2).
"""

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, Final, NamedTuple

import orjson

from jobs.contract.base64_reader import read_base64
from jobs.contract.errors import Refused
from jobs.contract.json_reader import describe_value

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
FIELDS: Final = ("datatype", "shape", "data", "b64")
MAX_DIMENSION: Final = 1 << 40
_HEADER = struct.Struct("<I")
# datatype without its size → the types that JSON reads as its values, and what they are called
_KINDS: Final[dict[str, tuple[set[type], str]]] = {
    "BOOL": ({bool}, "true or false"),
    "INT": ({int}, "whole numbers"),
    "FP": ({int, float}, "numbers"),
}


class Tensor(NamedTuple):
    """One tensor, without the batch dimension. `data` holds the values row-major, little-endian."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def size_bytes(datatype: str, shape: Sequence[int]) -> int:
    """Bytes that a tensor of this type and shape takes."""
    return DATATYPES[datatype][0] * prod(shape)


def read_tensor_header(name: str, value: Any) -> tuple[str, tuple[int, ...]]:
    """Read datatype and shape of a tensor in JSON; raises Refused. Its values are left unread."""
    if not isinstance(value, dict) or not {"datatype", "shape"} <= set(value) <= set(FIELDS):
        message = f"tensor {describe_value(name)} must be an object of datatype, shape, and data or b64"
        raise Refused("invalid_request", message, allowed=list(FIELDS))
    datatype, shape = value["datatype"], value["shape"]
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        message = (
            f"tensor {describe_value(name)}: datatype is {describe_value(datatype)}, which is none of the allowed ones"
        )
        raise Refused("invalid_input", message, allowed=list(DATATYPES))
    if not isinstance(shape, list) or not all(type(size) is int and 0 < size < MAX_DIMENSION for size in shape):
        raise Refused(
            "invalid_request", f"tensor {describe_value(name)}: shape must be a list of whole numbers above 0"
        )
    if ("data" in value) == ("b64" in value):
        raise Refused("invalid_request", f"tensor {describe_value(name)} must have one of data and b64")
    return datatype, tuple(shape)


def read_tensor_values(name: str, datatype: str, shape: tuple[int, ...], value: Mapping[str, Any]) -> Tensor:
    """Read the values of a tensor in JSON, `data` or `b64`; raises Refused. The head was read by `read_head`."""
    if "data" in value:
        if not isinstance(value["data"], list):
            raise Refused("invalid_request", f"tensor {describe_value(name)}: data must be a list")
        return from_numbers(name, datatype, shape, value["data"])
    if not isinstance(value["b64"], str):
        raise Refused("malformed_request", f"tensor {describe_value(name)}: b64 must be base64 text")
    data = read_base64(value["b64"], f"tensor {describe_value(name)}: b64")
    if len(data) != (wanted := size_bytes(datatype, shape)):
        message = f"tensor {describe_value(name)}: {datatype} {list(shape)} takes {wanted} bytes, not {len(data)}"
        raise Refused("invalid_input", message)
    check_tensor_bytes(name, datatype, data)
    return Tensor(datatype, shape, data)


def check_tensor_bytes(name: str, datatype: str, data: bytes) -> None:
    """Raise Refused for raw bytes that are no values of the datatype: of BOOL, any but 0 and 1."""
    if datatype == "BOOL" and data.translate(None, b"\0\1"):
        raise Refused("invalid_input", f"tensor {describe_value(name)}: a byte of a BOOL tensor must be 0 or 1")


def from_numbers(name: str, datatype: str, shape: tuple[int, ...], values: Sequence[Any]) -> Tensor:
    """A tensor from a list of JSON values, flat or nested as the shape says; raises Refused.

    The JSON type must be that of the datatype: true and false for BOOL, whole numbers for integers, any number else.
    """
    _, code = DATATYPES[datatype]
    if values and type(values[0]) is list:
        values = _flatten(name, shape, values)
    if len(values) != prod(shape):
        message = f"tensor {describe_value(name)}: shape {list(shape)} takes {prod(shape)} values, not {len(values)}"
        raise Refused("invalid_input", message)
    # struct packs numbers of the right kind alone, but takes a truth for a number, and anything for a truth.
    fits = {*map(type, values)} == {bool} if datatype == "BOOL" else bool not in map(type, values)
    try:
        data = struct.pack(f"<{len(values)}{code}", *values) if fits else b""
    except (OverflowError, struct.error) as error:
        raise _invalid_value(name, datatype, values, str(error)) from error
    if not fits:
        raise _invalid_value(name, datatype, values, "")
    return Tensor(datatype, shape, data)


def _invalid_value(name: str, datatype: str, values: Sequence[Any], why: str) -> Refused:
    """Say which value is not of the datatype, or out of its range."""
    kinds, words = _KINDS[datatype.rstrip("0123456789").removeprefix("U")]
    wrong = next((value for value in values if type(value) not in kinds), None)
    found = (
        why if wrong is None and type(None) not in map(type, values) else f"{describe_value(wrong)} is among the values"
    )
    return Refused(
        "invalid_input", f"tensor {describe_value(name)}: a value does not fit {datatype}: {found}; send {words}"
    )


def _flatten(name: str, shape: tuple[int, ...], values: Sequence[Any]) -> Sequence[Any]:
    """Flatten nested lists, row-major; raises Refused unless each level has as many as the shape says."""
    for level, size in enumerate(shape):
        lists: Sequence[Any] = values if level else [values]
        if any(type(one) is not list or len(one) != size for one in lists):
            message = (
                f"tensor {describe_value(name)}: data is nested, and level {level + 1} does not agree with the shape"
            )
            raise Refused("invalid_input", f"{message} {list(shape)}: send lists of {size}, or one flat list")
        values = list(chain.from_iterable(lists))
    return values


def to_numbers(tensor: Tensor) -> list[float]:
    """The values as Python numbers, flat and row-major."""
    code = DATATYPES[tensor.datatype][1]
    return list(struct.unpack(f"<{prod(tensor.shape)}{code}", tensor.data))


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """One frame; the shapes were checked against the data before."""
    header = orjson.dumps({name: [t.datatype, list(t.shape)] for name, t in tensors.items()})
    return b"".join((_HEADER.pack(len(header)), header, *(t.data for t in tensors.values())))


def unpack_tensors(frame: bytes) -> dict[str, Tensor]:
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
