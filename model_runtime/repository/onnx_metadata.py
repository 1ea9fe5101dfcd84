"""Read an ONNX file's inputs, operators, digest and size, without loading a runtime."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from model_runtime.repository.onnx_external_data import iterate_fields, read_external_data

# Field numbers of onnx.proto3: the graph of a model; the nodes, weights and inputs of a graph.
_GRAPH: Final = 7
_NODE, _WEIGHT, _INPUT = 1, 5, 11


class OnnxMetadata(NamedTuple):
    """`inputs`: shapes with the batch dimension, -1: free. `digest` and `size_bytes` include external data."""

    inputs: Mapping[str, tuple[int, ...]]
    operators: frozenset[str]
    digest: str
    size_bytes: int


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
        {
            name: shape for name, shape in inputs.items() if name not in weights
        },  # files before IR 4 list weights as inputs too
        frozenset(_text(node, 4) for node in _fields(graph, _NODE)),
        digest.hexdigest(),
        sum(file.stat().st_size for file in files),
    )


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
