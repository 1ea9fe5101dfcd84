"""Find operators that make rows affect each other, and tables of integer inputs; read an ONNX file without weights.

Reads the graph without its weights, so that a large file costs little.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import onnx

from model_runtime.graph.batch_axis_flow import trace_batch_axes
from model_runtime.graph.facts import Coupling, GraphFacts
from model_runtime.graph.graph import Graph, all_nodes, describe_node, inputs_of
from model_runtime.repository.onnx_file import iterate_fields

DYNAMIC_QUANTIZERS: Final = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
_SMALL_TENSOR: Final = 1 << 15  # bytes; a smaller one may be a shape
_GRAPH, _WEIGHT = 7, 5  # field numbers of onnx.proto3
_WEIGHT_HEADER: Final = frozenset({1, 2, 8})  # its shape, type and name
_EXTERNAL_DATA: Final = 13
# Operators that pass indices, or the rows of a table, on.
_PASSING: Final = frozenset(
    "Cast Clip DequantizeLinear Expand Flatten Identity Reshape Slice Squeeze Transpose Unsqueeze".split()  # noqa: SIM905
)


def examine(path: Path, batch_axes: Mapping[str, int]) -> GraphFacts:
    """Return the facts of an ONNX file. `batch_axes`: the batch dimension of each input that has one."""
    model = read_without_weights(path)
    return GraphFacts(find_couplings(model, batch_axes), table_heights(model))


def find_couplings(model: onnx.ModelProto, batch_axes: Mapping[str, int]) -> list[Coupling]:
    """Follow the batch to the first operator that mixes rows.

    Where the batch cannot be followed to the outputs, every operator counts that quantizes by one scale for all rows.
    """
    copy, axes = onnx.ModelProto(), dict(batch_axes)
    copy.CopyFrom(model)
    flow = trace_batch_axes(Graph(copy, axes), axes)
    if (mixing := [*flow.coupled, *flow.random]) and not flow.has_wrong_axis:
        operator, _, how = mixing[0].partition(": ")
        return [Coupling(operator, how, operator.split(" ", 1)[0] in DYNAMIC_QUANTIZERS)]
    if not (mixing or flow.undetermined or flow.fixed):
        return []
    constants = _constant_tensors(model)
    return [
        Coupling(describe_node(node), "it computes one scale for the whole batch", quantizes=True)
        for node in _nodes_and_functions(model)
        if node.op_type in DYNAMIC_QUANTIZERS and node.input[0] not in constants
    ]


def table_heights(model: onnx.ModelProto) -> dict[str, int]:
    """Return for each input that selects from constant tables the number of rows of the smallest one."""
    producers = {output: node for node in model.graph.node for output in node.output}
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    inputs = {value_info.name for value_info in inputs_of(model)}
    heights: dict[str, int] = {}
    for node in model.graph.node:
        for table, indices, axis in _lookups(node):
            table_name, index_name = _source(producers, table), _source(producers, indices)
            if index_name in inputs and (shape := shapes.get(table_name)):
                heights[index_name] = min(int(shape[axis]), heights.get(index_name, int(shape[axis])))
    return heights


def read_without_weights(path: Path) -> onnx.ModelProto:
    """Read a model; of large weights and of those in other files only the name, type and shape."""
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    reduced = b"".join(
        _field(number, b"".join(_graph_fields(value)) if number == _GRAPH and isinstance(value, memoryview) else value)
        for number, value in iterate_fields(data)
    )
    model = onnx.ModelProto()
    model.ParseFromString(reduced)
    return model


def _graph_fields(graph: memoryview) -> Iterator[bytes]:
    for number, value in iterate_fields(graph):
        if number == _WEIGHT and isinstance(value, memoryview):
            fields = list(iterate_fields(value))
            if len(value) > _SMALL_TENSOR or any(inner == _EXTERNAL_DATA for inner, _ in fields):
                header = [_field(inner, part) for inner, part in fields if inner in _WEIGHT_HEADER]
                yield _field(number, b"".join(header))
                continue
        yield _field(number, value)


def _field(number: int, value: int | bytes | memoryview) -> bytes:
    """Encode a field as protobuf does: a number, or a length and its bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return b"".join((_varint(number << 3 | 2), _varint(len(value)), value))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _lookups(node: onnx.NodeProto) -> list[tuple[str, str, int]]:
    """Return table, indices and the table's axis of each selection that an operator makes."""
    if node.op_type in {"Gather", "GatherElements"}:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        return [(node.input[0], node.input[1], axis)]
    if node.op_type == "EmbedLayerNormalization":
        return [(node.input[2], node.input[0], 0), (node.input[4], node.input[1], 0)]
    return []


def _source(producers: Mapping[str, onnx.NodeProto], name: str) -> str:
    """Follow a tensor back through operators that pass it on."""
    while (node := producers.get(name)) is not None and node.op_type in _PASSING:
        name = node.input[0]
    return name


def _constant_tensors(model: onnx.ModelProto) -> set[str]:
    named = {tensor.name for tensor in model.graph.initializer}
    return named | {output for node in model.graph.node if node.op_type == "Constant" for output in node.output}


def _nodes_and_functions(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from all_nodes(model.graph)
    for function in model.functions:
        yield from function.node
