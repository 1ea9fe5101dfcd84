"""Read an ONNX file without loading a runtime: its external data files, inputs, operators, digest and size.

Walks the protobuf wire format (field numbers: onnx.proto3) and skips the weights. It refuses anything it cannot parse,
so that a runtime reads nothing that was not checked.
"""

import hashlib
import mmap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from model_runtime.spec.model_toml import ModelError

# message → number of a field that may contain tensors → message of that field
_TENSOR_PATHS: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_GRAPH, _METADATA = 7, 14  # fields of a model
_NODE, _WEIGHT, _INPUT = 1, 5, 11  # fields of a graph
_VALUE_INFOS: Final = (_INPUT, 12, 13)  # of inputs, outputs and inner tensors
_WEIGHT_TYPE, _BFLOAT16 = 2, 16  # field of a weight, and its value
_ATTRIBUTE: Final = 5  # field of a node
_INTEGERS, _TEXTS = 8, 9  # fields of an attribute
_CLASS_LABELS: Final = "classlabels_"  # of the classifiers and ZipMap of the domain ai.onnx.ml
_EXTERNAL_DATA: Final = 13
_FIXED: Final = {1: 8, 5: 4}  # wire type → bytes


class ExternalData(NamedTuple):
    """The location of a tensor's bytes in another file. `location` is unchecked. `length` 0: to the end."""

    location: str
    offset: int = 0
    length: int = 0


class OnnxMetadata(NamedTuple):
    """`inputs`: shapes with the batch dimension, -1: free. `digest` and `size_bytes` include external data."""

    inputs: Mapping[str, tuple[int, ...]]
    operators: frozenset[str]
    digest: str
    size_bytes: int


def read_external_data(path: Path) -> list[ExternalData]:
    """Return all external data, also of subgraphs and functions. Raises ModelError if it is not an ONNX model."""
    try:
        if not path.stat().st_size:
            raise ModelError(path, None, "is empty: not an ONNX model")
        return _find(_map(path), path)
    except OSError as error:
        raise ModelError(path, None, f"cannot be read: {error.strerror}") from error


def read_onnx_metadata(path: Path) -> OnnxMetadata:
    """Read a file that passed `path_checks.check_onnx`. Raises ModelError."""
    files = [path, *sorted({path.parent / part.location for part in read_external_data(path)})]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    (graph,) = _fields(path.read_bytes(), _GRAPH)[-1:]
    weights = {_text(weight, 8) for weight in _fields(graph, _WEIGHT)}
    inputs = {_text(value_info, 1): _shape(value_info) for value_info in _fields(graph, _INPUT)}
    return OnnxMetadata(
        # Files before IR 4 list weights as inputs too.
        {name: shape for name, shape in inputs.items() if name not in weights},
        frozenset(_text(node, 4) for node in _fields(graph, _NODE)),
        digest.hexdigest(),
        sum(file.stat().st_size for file in files),
    )


def read_class_labels(path: Path) -> list[tuple[str | int, ...]]:
    """Return the distinct lists of class labels that classifiers of a checked file name in their attributes."""
    found: dict[tuple[str | int, ...], None] = {}
    graph = _fields(_map(path), _GRAPH)[-1]
    for node in _fields(graph, _NODE):
        for attribute in _fields(node, _ATTRIBUTE):
            if _text(attribute, 1).startswith(_CLASS_LABELS) and (labels := _labels(attribute)):
                found[labels] = None
    return list(found)


def has_bf16(path: Path) -> bool:
    """Return whether a weight, an input, an output or an inner tensor of a checked file is declared to be of BF16."""
    graph = _fields(_map(path), _GRAPH)[-1]
    weights = (dict(iterate_fields(weight)).get(_WEIGHT_TYPE) for weight in _fields(graph, _WEIGHT))
    declared = (
        dict(iterate_fields(tensor)).get(1)
        for field in _VALUE_INFOS
        for value_info in _fields(graph, field)
        for kind in _fields(value_info, 2)
        for tensor in _fields(kind, 1)
    )
    return _BFLOAT16 in (*weights, *declared)


def read_metadata(path: Path) -> dict[str, str]:
    """Return what exporters wrote into a checked file: its `metadata_props`. Texts that are no UTF-8 are left out."""
    found: dict[str, str] = {}
    for entry in _fields(_map(path), _METADATA):
        with suppress(UnicodeDecodeError):
            found[_text(entry, 1)] = _text(entry, 2)
    return found


def _map(path: Path) -> memoryview:
    with path.open("rb") as file:
        # Not closed explicitly, as an exception may still hold views of it.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _labels(attribute: memoryview) -> tuple[str | int, ...]:
    """Return the integers or texts of an attribute."""
    labels: list[str | int] = []
    for number, value in iterate_fields(attribute):
        if number == _TEXTS and isinstance(value, memoryview):
            labels.append(bytes(value).decode())
        elif number == _INTEGERS and isinstance(value, int):
            labels.append(_signed(value))
        elif number == _INTEGERS and isinstance(value, memoryview):  # packed
            at = 0
            while at < len(value):
                integer, at = _varint(value, at)
                labels.append(_signed(integer))
    return tuple(labels)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _find(view: memoryview, path: Path) -> list[ExternalData]:
    parts: list[ExternalData] = []
    pending: list[tuple[str, memoryview]] = [("model", view)]
    has_graph = False
    try:
        while pending:
            message, data = pending.pop()
            for number, value in iterate_fields(data):
                has_graph = has_graph or (message == "model" and number == _GRAPH)
                inner = _TENSOR_PATHS.get(message, {}).get(number)
                if inner and isinstance(value, memoryview):
                    pending.append((inner, value))
            if message == "tensor" and (entries := _entries(data)):
                parts.append(_external(entries))
    except (ValueError, IndexError) as error:
        raise ModelError(path, None, f"is not an ONNX model, or is truncated: {error}") from error
    if not has_graph:
        raise ModelError(path, None, f"is not an ONNX model: its {len(view)} bytes contain no graph")
    return parts


def _entries(tensor: memoryview) -> dict[str, str]:
    """Return a tensor's `external_data` as key → value."""
    entries = {}
    for number, value in iterate_fields(tensor):
        if number == _EXTERNAL_DATA and isinstance(value, memoryview):
            pair = {n: bytes(v).decode() for n, v in iterate_fields(value) if isinstance(v, memoryview)}
            entries[pair.get(1, "")] = pair.get(2, "")
    return entries


def _external(entries: Mapping[str, str]) -> ExternalData:
    return ExternalData(entries.get("location", ""), int(entries.get("offset", 0)), int(entries.get("length", 0)))


def iterate_fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field. Raises ValueError or IndexError if the bytes are not a message."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise ValueError(f"field {number} has the unknown wire type {wire}")
        if size > end - at:
            raise ValueError(f"field {number} ends beyond the file")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def _fields(message: bytes | memoryview, field: int) -> list[memoryview]:
    return [
        value
        for number, value in iterate_fields(memoryview(message))
        if number == field and isinstance(value, memoryview)
    ]


def _text(message: memoryview, field: int) -> str:
    return bytes((_fields(message, field) or [memoryview(b"")])[-1]).decode()


def _shape(value_info: memoryview) -> tuple[int, ...]:
    """Follow ValueInfo → type → tensor type → shape → dimensions. A dimension without a number is -1."""
    shapes = [shape for kind in _fields(value_info, 2) for tensor in _fields(kind, 1) for shape in _fields(tensor, 2)]
    return tuple(
        next((value for number, value in iterate_fields(side) if number == 1 and isinstance(value, int)), -1)
        for shape in shapes
        for side in _fields(shape, 1)
    )
