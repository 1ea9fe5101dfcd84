"""Weights-only INT8 quantization: weights are stored in 8 bits, and multiplied in float.

Activations are not quantized, so rows stay apart, and no examples are needed. Each weight becomes an INT8 constant
and a DequantizeLinear with a scale for each channel.
"""

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cli.models.optimizing.passes import onnx_graphs
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array

MIN_WEIGHTS: Final = 1024  # numbers of a tensor; smaller ones save nothing
_LARGEST: Final = 127
# operator → its weights: the input's number and the axis of channels
_WEIGHTS: Final[Mapping[str, Mapping[int, int]]] = {
    "Conv": {1: 0},
    "ConvTranspose": {1: 1},
    "Gemm": {1: 1},
    "MatMul": {1: -1},
    "LSTM": {1: 1, 2: 1},
    "GRU": {1: 1, 2: 1},
    "RNN": {1: 1, 2: 1},
}


def write(source: Path, target: Path, title: Path) -> list[str]:
    """Quantize the weights of a file; return notes. Raises ModelError if it has none to quantize."""
    model = onnx_graphs.read(source)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    operators: Counter[str] = Counter()
    nodes: list[onnx.NodeProto] = []
    done = dict[tuple[str, int], str]()
    for node in graph.node:
        for at, axis in _weight_inputs(node).items():
            tensor = weights.get(node.input[at]) if at < len(node.input) else None
            if tensor is None or len(tensor.dims) < 2 or prod(tensor.dims) < MIN_WEIGHTS:
                continue
            key = (tensor.name, axis % len(tensor.dims))
            if key not in done:
                nodes.append(_dequantized(graph, tensor, key[1]))
                done[key] = nodes[-1].output[0]
            node.input[at] = done[key]
            operators[node.op_type] += 1
        if node.op_type == "Gather" and (table := weights.get(node.input[0])) and prod(table.dims) >= MIN_WEIGHTS:
            nodes += _gathered(graph, node, table, done)
            operators["Gather"] += 1
            continue
        nodes.append(node)
    if not operators:
        reason = f"it has no FP32 weights of {MIN_WEIGHTS} numbers or more in {', '.join(sorted(_WEIGHTS))} or Gather"
        raise ModelError(title, "--int8-weights", f"{reason}; allowed: a model that has some")
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used or tensor.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx_graphs.save(model, target)
    listed = ", ".join(f"{name} {count}" for name, count in sorted(operators.items()))
    return [f"weights in int8: {listed}; arithmetic in float"]


def _weight_inputs(node: onnx.NodeProto) -> Mapping[int, int]:
    if node.op_type == "Gemm" and any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
        return {1: 0}
    return _WEIGHTS.get(node.op_type, {})


def _dequantized(graph: onnx.GraphProto, tensor: TensorProto, axis: int) -> onnx.NodeProto:
    """Add the quantized weights with a scale for each channel; return the node that restores them."""
    values = numpy_helper.to_array(tensor)
    others = tuple(other for other in range(values.ndim) if other != axis)
    scale = _scale(np.abs(values).max(axis=others))
    shape = [-1 if other == axis else 1 for other in range(values.ndim)]
    name = f"{tensor.name}_int8_{axis}"
    _add_quantized(graph, name, values / scale.reshape(shape), scale)
    return helper.make_node(
        "DequantizeLinear", [name, f"{name}_scale", f"{name}_zero"], [f"{name}_float"], name=name, axis=axis
    )


def _gathered(
    graph: onnx.GraphProto, node: onnx.NodeProto, table: TensorProto, done: dict[tuple[str, int], str]
) -> list[onnx.NodeProto]:
    """Select rows of the quantized table and restore those alone, with one scale, as the table may be large."""
    name = f"{table.name}_int8_rows"
    if (table.name, -1) not in done:
        values = numpy_helper.to_array(table)
        scale = _scale(np.abs(values).max())
        _add_quantized(graph, name, values / scale, scale)
        done[table.name, -1] = name
    output = node.output[0]
    node.input[0], node.output[0] = name, f"{output}_int8"
    restored = helper.make_node(
        "DequantizeLinear", [f"{output}_int8", f"{name}_scale", f"{name}_zero"], [output], name=f"{output}_restored"
    )
    return [node, restored]


def _scale(largest: Array) -> Array:
    scale: Array = np.where(largest == 0, 1, largest / _LARGEST).astype(np.float32)
    return scale


def _add_quantized(graph: onnx.GraphProto, name: str, values: Array, scale: Array) -> None:
    quantized = np.clip(np.rint(values), -_LARGEST, _LARGEST).astype(np.int8)
    zeros = np.zeros(scale.shape, np.int8)
    for suffix, array in (("", quantized), ("_scale", scale), ("_zero", zeros)):
        graph.initializer.append(numpy_helper.from_array(array, name + suffix))
