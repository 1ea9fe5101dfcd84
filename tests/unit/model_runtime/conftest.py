"""Fixtures: generated models and pictures, and the shared test data where it is present."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import helper

Ports = Mapping[str, tuple[int, Sequence[int | str]]]
SaveGraph = Callable[[Path, Sequence[onnx.NodeProto], Ports, Ports, Mapping[str, onnx.TensorProto]], Path]


def _save_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Ports,
    outputs: Ports,
    constants: Mapping[str, onnx.TensorProto],
) -> Path:
    taken, given = (
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, (kind, shape) in ports.items()]
        for ports in (inputs, outputs)
    )
    graph = helper.make_graph(list(nodes), "made", taken, given, initializer=list(constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def save_graph() -> SaveGraph:
    """Write an ONNX file of nodes, inputs, outputs and constants."""
    return _save_graph


@pytest.fixture
def relu(tmp_path: Path) -> Callable[..., Path]:
    """Write a model folder whose model returns max(x, 0), for float inputs of a shape; return the folder."""

    def make(toml: str, shape: Sequence[int | str], name: str = "relu", version: str = "1") -> Path:
        port = (onnx.TensorProto.FLOAT, shape)
        node = helper.make_node("Relu", ["x"], ["y"])
        _save_graph(tmp_path / name / version / "model.onnx", [node], {"x": port}, {"y": port}, {})
        (tmp_path / name / "model.toml").write_text(toml, encoding="utf-8")
        return tmp_path / name

    return make
