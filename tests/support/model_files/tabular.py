"""Tabular models as converters write them: a classifier with or without ZipMap, and columns of several types."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

ML = "ai.onnx.ml"
COLORS = ("blue", "green", "red")


def _save(
    folder: Path, nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
) -> Path:
    graph = helper.make_graph(nodes, "tabular", inputs, outputs)
    domains = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    (folder / "1").mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8), folder / "1" / "model.onnx")
    return folder


def classifier(
    models_dir: Path, name: str, labels: Sequence[str | int] = COLORS, *, zipmap: bool = True, toml: str = ""
) -> Path:
    """Lay out a classifier of three columns, whose probabilities are the values of the row; X [N, 3]."""
    is_text = isinstance(labels[0], str)
    identity = [float(row == column) for row in range(3) for column in range(3)]
    key = "classlabels_strings" if is_text else "classlabels_ints"
    classes: dict[str, Any] = {key: [*labels]}
    kind = TensorProto.STRING if is_text else TensorProto.INT64
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["X"],
            ["output_label", "scores"],
            domain=ML,
            coefficients=identity,
            intercepts=[0.0] * 3,
            multi_class=1,
            post_transform="NONE",
            **classes,
        )
    ]
    probabilities = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 3])
    if zipmap:
        key = "classlabels_strings" if is_text else "classlabels_int64s"
        classes = {key: [*labels]}
        nodes.append(helper.make_node("ZipMap", ["scores"], ["output_probability"], domain=ML, **classes))
        numbers = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        rows = helper.make_sequence_type_proto(helper.make_map_type_proto(kind, numbers))
        probabilities = helper.make_value_info("output_probability", rows)
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 3])]
    outputs = [helper.make_tensor_value_info("output_label", kind, [None]), probabilities]
    folder = _save(models_dir / name, nodes, inputs, outputs)
    (folder / "model.toml").write_text(f'task = "tabular"\n{toml}')
    return folder


def fares(models_dir: Path, name: str = "fares", toml: str = 'task = "tabular"') -> Path:
    """Lay out a regressor of columns of three types: age + 100 if sex is female, 200 if male, and 1,000 * class.

    Another sex is 0.
    """
    nodes = [
        helper.make_node(
            "LabelEncoder",
            ["sex"],
            ["coded"],
            domain=ML,
            keys_strings=["female", "male"],
            values_floats=[100.0, 200.0],
            default_float=0.0,
        ),
        helper.make_node("Cast", ["class"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["thousand"], value_floats=[1000.0]),
        helper.make_node("Mul", ["number", "thousand"], ["thousands"]),
        helper.make_node("Sum", ["age", "coded", "thousands"], ["fare"]),
    ]
    kinds = {"age": TensorProto.FLOAT, "sex": TensorProto.STRING, "class": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(column, kind, [None, 1]) for column, kind in kinds.items()]
    outputs = [helper.make_tensor_value_info("fare", TensorProto.FLOAT, [None, 1])]
    folder = _save(models_dir / name, nodes, inputs, outputs)
    (folder / "model.toml").write_text(toml)
    return folder
