"""What a runtime that builds for a model must know before it opens it: inputs, operators, and which file it is."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from model_runtime.repository.onnx_external_data import iterate_fields, read_external_data

# onnx.proto3: of a model, its graph; of a graph, nodes, weights and inputs.
_GRAPH: Final = 7
_NODE, _WEIGHT, _INPUT = 1, 5, 11


class OnnxMetadata(NamedTuple):
    """`inputs`: shapes with the batch dimension, -1 where free. `digest` and `size_bytes`: with all external data."""

    inputs: Mapping[str, tuple[int, ...]]
    operators: frozenset[str]
    digest: str
    size_bytes: int


def read_onnx_metadata(path: Path) -> OnnxMetadata:
    """Of a file that `path_checks.check_onnx` has let pass; raises ModelError."""
    files = [path, *sorted({path.parent / part.location for part in read_external_data(path)})]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    (graph,) = _inner(path.read_bytes(), _GRAPH)[-1:]
    weights = {_text(weight, 8) for weight in _inner(graph, _WEIGHT)}
    inputs = {_text(one, 1): _shape(one) for one in _inner(graph, _INPUT)}
    return OnnxMetadata(
        {name: shape for name, shape in inputs.items() if name not in weights},  # as files before IR 4 list them
        frozenset(_text(node, 4) for node in _inner(graph, _NODE)),
        digest.hexdigest(),
        sum(file.stat().st_size for file in files),
    )


def _inner(message: bytes | memoryview, field: int) -> list[memoryview]:
    return [
        value
        for number, value in iterate_fields(memoryview(message))
        if number == field and isinstance(value, memoryview)
    ]


def _text(message: memoryview, field: int) -> str:
    return bytes((_inner(message, field) or [memoryview(b"")])[-1]).decode()


def _shape(port: memoryview) -> tuple[int, ...]:
    """ValueInfo → type → tensor type → shape → dimensions, of which each is a number, a name or nothing."""
    found = [shape for kind in _inner(port, 2) for tensor in _inner(kind, 1) for shape in _inner(tensor, 2)]
    return tuple(
        next((value for number, value in iterate_fields(side) if number == 1 and isinstance(value, int)), -1)
        for shape in found
        for side in _inner(shape, 1)
    )
