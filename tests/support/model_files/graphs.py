"""Small ONNX files for tests of graph checks; each is named for its fault."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[int | str]
Values = NDArray[Any]
node = helper.make_node


def write(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, Values] | None = None,
    *,
    opset: int = 17,
    kinds: Mapping[str, int] | None = None,
) -> Path:
    """Write a model of FP32 ports, but for those that `kinds` names; gives the path."""
    taken, given = (
        [
            helper.make_tensor_value_info(name, (kinds or {}).get(name, TensorProto.FLOAT), list(shape))
            for name, shape in ports.items()
        ]
        for ports in (inputs, outputs)
    )
    held = [numpy_helper.from_array(values, name) for name, values in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "made", taken, given, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def numbers(*shape: int, seed: int = 1) -> Values:
    """Weights."""
    values: Values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return values


def int64_constant(*values: int) -> Values:
    """INT64, as shapes and axes are."""
    return np.array(values, np.int64)


def with_random_weights(source: Path, path: Path) -> Path:
    """Write a copy of one of the `onnx` package's light models with weights that differ: its own are all alike."""
    model = onnx.load(source)
    shapes = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    random, kept = np.random.default_rng(1), []
    for one in model.graph.node:
        if one.op_type != "ConstantOfShape":
            kept.append(one)
            continue
        shape = tuple(int(side) for side in shapes[one.input[0]])
        fan_in = max(1, int(np.prod(shape[1:])))
        values = random.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
        if len(shape) == 1:  # scales, shifts, means and variances: such that signals neither die out nor explode
            values = np.float32(0.25) + np.float32(0.1) * random.random(shape, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, one.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.ir_version = 4
    onnx.save(model, path)
    return path
