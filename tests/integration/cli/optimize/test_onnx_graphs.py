"""Simplified graphs: nothing is left beside them, also where ONNX Runtime cannot infer all shapes."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from cli.models.optimizing.passes import onnx_graphs


def test_a_graph_whose_shapes_are_not_inferred_leaves_no_file_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Scaler", ["x"], ["z"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0]),
            helper.make_node("Abs", ["z"], ["y"]),
        ],
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, tmp_path / "scaled.onnx")
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    onnx_graphs.simplify(Path("../scaled.onnx"), Path("../simple.onnx"), optimize=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["current", "scaled.onnx", "simple.onnx"]
