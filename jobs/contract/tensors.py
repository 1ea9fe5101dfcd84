"""Named tensors as bytes, without numpy: parsing from JSON, and the frame format of a job's input.

A frame is a JSON header followed by the raw little-endian values. The gateway checks sizes without reading values, and
the worker maps arrays onto the same bytes. Data types and sizes follow the Open Inference Protocol (KServe v2).
"""

import math
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any, Final, NamedTuple

import orjson

from jobs.contract.base64_reader import read_base64
from jobs.contract.errors import Refused
from jobs.contract.json_reader import describe_value

BF16: Final = "BF16"
# datatype → (bytes per value, struct code of one value); values of BYTES, which are texts, have no fixed size. Those of
# BF16 are the upper halves of FP32, whose code it has.
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
    BF16: (2, "f"),
    "FP32": (4, "f"),
    "FP64": (8, "d"),
}
TEXTS: Final = "BYTES"
FIELDS: Final = ("datatype", "shape", "data", "b64")
FLOATS: Final = ("FP16", BF16, "FP32", "FP64")
MAX_DIMENSION: Final = 1 << 40
_HEADER = struct.Struct("<I")
# datatype without its size → Python types of its JSON values, and their name in messages
_KINDS: Final[dict[str, tuple[set[type], str]]] = {
    "BOOL": ({bool}, "true or false"),
    "INT": ({int}, "whole numbers"),
    "FP": ({int, float, type(None)}, "numbers, or null for NaN"),
    "BF": ({int, float, type(None)}, "numbers, or null for NaN"),
    TEXTS: ({str}, "text"),
}


class Tensor(NamedTuple):
    """One tensor, without the batch dimension. `data` holds the values row-major, little-endian.

    A value of BYTES is UTF-8 text after its length in bytes, an unsigned integer of 32 bits.
    """

    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def size_bytes(datatype: str, shape: Sequence[int]) -> int:
    """Return the number of bytes of a tensor, which is not one of BYTES."""
    return DATATYPES[datatype][0] * prod(shape)


def read_tensor_header(name: str, value: Any) -> tuple[str, tuple[int, ...]]:
    """Read datatype and shape of a JSON tensor, but not its values. Raises Refused."""
    if not isinstance(value, dict) or not {"datatype", "shape"} <= set(value) <= set(FIELDS):
        message = f"tensor {describe_value(name)} must be an object of datatype, shape, and data or b64"
        raise Refused("invalid_request", message, allowed=list(FIELDS))
    datatype, shape = value["datatype"], value["shape"]
    if not isinstance(datatype, str) or (datatype not in DATATYPES and datatype != TEXTS):
        message = f"tensor {describe_value(name)}: datatype {describe_value(datatype)} is not one of the allowed ones"
        raise Refused("invalid_input", message, allowed=[*DATATYPES, TEXTS])
    check_shape(name, shape)
    if ("data" in value) == ("b64" in value):
        raise Refused("invalid_request", f"tensor {describe_value(name)} must have one of data and b64")
    return datatype, tuple(shape)


def check_shape(name: str, shape: Any) -> None:
    """Raise Refused unless a shape is a list or tuple of possible sizes."""
    if not isinstance(shape, list | tuple) or not all(
        type(size) is int and 0 <= size < MAX_DIMENSION for size in shape
    ):
        raise Refused("invalid_request", f"tensor {describe_value(name)}: shape must be a list of whole numbers from 0")
    if 0 in shape and prod(filter(None, shape)) >= MAX_DIMENSION:
        raise Refused(
            "invalid_input", f"tensor {describe_value(name)}: the other dimensions of an empty tensor are too large"
        )


def read_tensor_values(name: str, datatype: str, shape: tuple[int, ...], value: Mapping[str, Any]) -> Tensor:
    """Read the values (`data` or `b64`) of a JSON tensor whose header is read. Raises Refused."""
    if "data" in value:
        if not isinstance(value["data"], list):
            raise Refused("invalid_request", f"tensor {describe_value(name)}: data must be a list")
        return from_numbers(name, datatype, shape, value["data"])
    if not isinstance(value["b64"], str):
        raise Refused("malformed_request", f"tensor {describe_value(name)}: b64 must be base64 text")
    data = read_base64(value["b64"], f"tensor {describe_value(name)}: b64")
    if datatype == TEXTS:
        unpack_texts(name, Tensor(datatype, shape, data))
        return Tensor(datatype, shape, data)
    if len(data) != (expected := size_bytes(datatype, shape)):
        message = f"tensor {describe_value(name)}: {datatype} {list(shape)} takes {expected} bytes, not {len(data)}"
        raise Refused("invalid_input", message)
    check_tensor_bytes(name, datatype, data)
    return Tensor(datatype, shape, data)


def check_tensor_bytes(name: str, datatype: str, data: bytes) -> None:
    """Raise Refused if raw bytes are not values of the datatype: bytes of BOOL must be 0 or 1."""
    if datatype == "BOOL" and data.translate(None, b"\0\1"):
        raise Refused("invalid_input", f"tensor {describe_value(name)}: a byte of a BOOL tensor must be 0 or 1")


def from_numbers(name: str, datatype: str, shape: tuple[int, ...], values: Sequence[Any]) -> Tensor:
    """Build a tensor from JSON values, flat or nested like the shape. Raises Refused.

    The JSON type must match: true and false for BOOL, whole numbers for integers, any number for floats, or null for
    NaN, text for BYTES.
    """
    if values and type(values[0]) is list:
        values = _flatten(name, shape, values)
    if len(values) != prod(shape):
        message = f"tensor {describe_value(name)}: shape {list(shape)} takes {prod(shape)} values, not {len(values)}"
        raise Refused("invalid_input", message)
    if datatype == TEXTS:
        if not {*map(type, values)} <= {str}:
            raise _invalid_value(name, datatype, values, "")
        return Tensor(datatype, shape, pack_texts(values))
    (_, code), types = DATATYPES[datatype], {*map(type, values)}
    if type(None) in types and datatype in FLOATS:
        values = [math.nan if value is None else value for value in values]
    # struct rejects numbers of the wrong kind, but accepts a bool as a number and any value as a bool.
    fits = types <= {bool} if datatype == "BOOL" else bool not in types
    try:
        data = struct.pack(f"<{len(values)}{code}", *values) if fits else b""
        if datatype == BF16:
            data = _round_to_bf16(data)
    except (OverflowError, struct.error) as error:
        raise _invalid_value(name, datatype, values, str(error)) from error
    if not fits:
        raise _invalid_value(name, datatype, values, "")
    return Tensor(datatype, shape, data)


def _round_to_bf16(data: bytes) -> bytes:
    """Return the nearest BF16 numbers of those of FP32, ties to even. Raises OverflowError for one that is too large.

    A NaN must be the usual one, as there are none but those of null.
    """
    count = len(data) // 4
    rounded = [(bits + 0x7FFF + (bits >> 16 & 1)) >> 16 for bits in struct.unpack(f"<{count}I", data)]
    if 0x7F80 in rounded or 0xFF80 in rounded:
        raise OverflowError("a number is out of range")
    return struct.pack(f"<{count}H", *rounded)


def _invalid_value(name: str, datatype: str, values: Sequence[Any], why: str) -> Refused:
    """Return the error that names the value of the wrong type or out of range."""
    types, expected = _KINDS[datatype.rstrip("0123456789").removeprefix("U")]
    wrong = next((describe_value(value) for value in values if type(value) not in types), "")
    reason = f"{wrong} is among the values" if wrong else why
    return Refused(
        "invalid_input", f"tensor {describe_value(name)}: a value does not fit {datatype}: {reason}; send {expected}"
    )


def _flatten(name: str, shape: tuple[int, ...], values: Sequence[Any]) -> Sequence[Any]:
    """Flatten nested lists, row-major. Raises Refused unless each level has the size that the shape says."""
    for level, size in enumerate(shape):
        lists: Sequence[Any] = values if level else [values]
        if any(type(part) is not list or len(part) != size for part in lists):
            message = (
                f"tensor {describe_value(name)}: data is nested, and level {level + 1} does not agree with the shape"
            )
            raise Refused("invalid_input", f"{message} {list(shape)}: send lists of {size}, or one flat list")
        values = list(chain.from_iterable(lists))
    return values


def pack_texts(texts: Sequence[str]) -> bytes:
    """Return texts as the values of a BYTES tensor."""
    encoded = [text.encode() for text in texts]
    return b"".join(chain.from_iterable((_HEADER.pack(len(text)), text) for text in encoded))


def unpack_texts(name: str, tensor: Tensor) -> list[str]:
    """Return the texts of a BYTES tensor, row-major. Raises Refused if its bytes are not as many texts."""
    what, texts, at, data = f"tensor {describe_value(name)}", list[str](), 0, bytes(tensor.data)
    try:
        while at < len(data):
            (size,) = _HEADER.unpack_from(data, at)
            at += _HEADER.size + size
            if at > len(data):
                raise Refused("invalid_input", f"{what}: text {len(texts)} of {size} bytes ends beyond the data")
            texts.append(data[at - size : at].decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise Refused("invalid_input", f"{what}: text {len(texts)} cannot be read: {error}") from error
    if len(texts) != prod(tensor.shape):
        message = f"{what}: shape {list(tensor.shape)} takes {prod(tensor.shape)} texts, not {len(texts)}"
        raise Refused("invalid_input", message)
    return texts


def to_numbers(tensor: Tensor) -> list[float]:
    """Return the values as Python numbers, flat and row-major."""
    code, data = DATATYPES[tensor.datatype][1], tensor.data
    if tensor.datatype == BF16:
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[::2], data[1::2]
        data = bytes(wide)
    return list(struct.unpack(f"<{prod(tensor.shape)}{code}", data))


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Pack tensors into a frame. The caller has checked the shapes against the data."""
    header = _pack_header(
        tuple((name, t.datatype, t.shape, len(t.data) * (t.datatype == TEXTS)) for name, t in tensors.items())
    )
    return b"".join((header, *(t.data for t in tensors.values())))


@lru_cache(64)
def _pack_header(tensors: Sequence[tuple[str, str, tuple[int, ...], int]]) -> bytes:
    """Pack the names, data types, shapes, and sizes of texts. Cached, because those of a model repeat."""
    header = orjson.dumps(
        {name: [datatype, shape, *[size] * (datatype == TEXTS)] for name, datatype, shape, size in tensors}
    )
    return _HEADER.pack(len(header)) + header


def unpack_tensors(frame: bytes) -> dict[str, Tensor]:
    """Return the tensors of a frame as views on its bytes. Raises Refused if the frame is inconsistent."""
    try:
        (length,) = _HEADER.unpack_from(frame)
        header = orjson.loads(frame[4 : 4 + length])
        at, view, tensors = 4 + length, memoryview(frame), {}
        for name, (datatype, shape, *size) in header.items():
            end = at + (size[0] if size else size_bytes(datatype, shape))
            tensors[name] = Tensor(datatype, tuple(shape), view[at:end])
            at = end
    except (struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Refused("invalid_input", f"not a tensor frame: {error}") from error
    if at != len(frame):
        raise Refused("invalid_input", f"a tensor frame has {len(frame)} bytes, but its header describes {at}")
    return tensors
