"""Diagnose why a model cannot be batched, in terms an operator understands, and build a repaired copy."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import onnx
from onnx import helper

from model_runtime.graph.batch_axis import BatchAxis
from model_runtime.graph.batch_axis_flow import FlowResult, trace_batch_axes
from model_runtime.graph.graph import BATCH, Graph, dims_of, inputs_of, set_dim

_BATCH_NAMES: Final = frozenset({"batch", "batch_size", "batchsize", "bs", "n", "b", "none"})
_STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx"})


@dataclass
class Diagnosis:
    """`obstacles`: repairable reasons. `fatal`: reasons that cannot be repaired. `doubts`: unknown operators or shapes.

    `mended`: a copy without the obstacles; None if there are none, or if `fatal` or `doubts` is not empty.
    """

    obstacles: list[str] = field(default_factory=list)
    fatal: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    mended: onnx.ModelProto | None = None


def diagnose(model: onnx.ModelProto) -> Diagnosis:
    """Analyse the graph without running it. `model` is not changed."""
    diagnosis = Diagnosis()
    if unknown := unknown_operators(model):
        diagnosis.fatal += [f"unknown operator {name}: neither ONNX nor ONNX Runtime has it" for name in unknown]
        return diagnosis
    axes = {value_info.name: _batch_axis(dims_of(value_info)) for value_info in inputs_of(model)}
    flow, graph = _follow(model, axes)
    if flow.has_wrong_axis and (transposed := _follow_transposed(model, axes)):
        flow, graph, axes = transposed
    _diagnose_tensors(diagnosis, graph, axes)
    diagnosis.obstacles += graph.changes
    diagnosis.fatal += [f"{line} (rows would mix)" for line in flow.coupled] + flow.fixed
    diagnosis.doubts += flow.undetermined
    for name, state in flow.output_states.items():
        if not isinstance(state, BatchAxis) or state.group != 1:
            diagnosis.fatal.append(f"output {name!r} has no batch dimension: it is one result for the whole batch")
    if not diagnosis.fatal and not diagnosis.doubts:
        _open_batch_axis(diagnosis, graph, axes, flow)
        if diagnosis.obstacles:
            diagnosis.mended = graph.model
    return diagnosis


def unknown_operators(model: onnx.ModelProto) -> list[str]:
    """Return the sorted names of operators that neither ONNX, nor ONNX Runtime, nor a function in the file defines."""
    defined = {(function.domain, function.name) for function in model.functions}
    names = set()
    for node in all_nodes(model.graph):
        domain = "" if node.domain in _STANDARD_DOMAINS else node.domain
        foreign = domain and not domain.startswith(("com.microsoft", "ai.onnx", "com.ms", "org.pytorch"))
        if (domain, node.op_type) not in defined and (foreign or (not domain and not onnx.defs.has(node.op_type))):
            names.add(f"{domain}.{node.op_type}" if domain else node.op_type)
    return sorted(names)


def all_nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    """Yield the nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
                yield from all_nodes(subgraph)


def _batch_axis(shape: list[int | str]) -> int:
    """Return the first dimension, unless another one is named like a batch."""
    names = [str(side).lower() for side in shape]
    if names and names[0] not in _BATCH_NAMES:
        return next((axis for axis, name in enumerate(names) if name in _BATCH_NAMES), 0)
    return 0


def _follow(model: onnx.ModelProto, axes: dict[str, int]) -> tuple[FlowResult, Graph]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy, axes)
    scalars = [value_info.name for value_info in graph.inputs if not dims_of(value_info)]
    if scalars:
        return FlowResult(fixed=[f"input {name!r} is a scalar, shared by the whole batch" for name in scalars]), graph
    return trace_batch_axes(graph, axes), graph


def _follow_transposed(model: onnx.ModelProto, axes: dict[str, int]) -> tuple[FlowResult, Graph, dict[str, int]] | None:
    """Trace with the batch in the second dimension, as in recurrent networks. Return None if that fails too."""
    second = {
        value_info.name: 1 if len(dims_of(value_info)) > 1 and axes[value_info.name] == 0 else axes[value_info.name]
        for value_info in inputs_of(model)
    }
    if second == axes:
        return None
    flow, graph = _follow(model, second)
    failed = flow.coupled or flow.fixed or flow.undetermined
    return None if failed else (flow, graph, second)


def _diagnose_tensors(diagnosis: Diagnosis, graph: Graph, axes: dict[str, int]) -> None:
    for value_info in graph.inputs:
        shape = dims_of(value_info)
        if not shape:
            continue
        axis = axes[value_info.name]
        if axis:
            name = f"input {value_info.name!r} {_format_dims(shape)}"
            diagnosis.obstacles.append(f"{name} has its batch in dimension {axis + 1}; Jitney needs it first")
        if isinstance(shape[axis], int):
            name = f"input {value_info.name!r} {_format_dims(shape)}"
            diagnosis.obstacles.append(f"{name} is fixed to a batch of {shape[axis]}")
    for value_info in graph.graph.output:
        shape = dims_of(value_info)
        if shape and isinstance(shape[0], int) and not any(axes.values()):
            name = f"output {value_info.name!r} {_format_dims(shape)}"
            diagnosis.obstacles.append(f"{name} is declared for a batch of {shape[0]}")


def _open_batch_axis(diagnosis: Diagnosis, graph: Graph, axes: dict[str, int], flow: FlowResult) -> None:
    """Free the batch dimension of inputs and outputs, and move it to the front."""
    for value_info in graph.inputs:
        axis = axes[value_info.name]
        set_dim(value_info, axis, BATCH)
        if axis:
            _transpose_input(graph, value_info, axis)
    for value_info in graph.graph.output:
        rows = flow.output_states[value_info.name]
        if isinstance(rows, BatchAxis) and rows.axis:
            name = f"output {value_info.name!r}"
            diagnosis.obstacles.append(f"{name} has its batch in dimension {rows.axis + 1}; Jitney needs it first")
            _transpose_output(graph, value_info, rows.axis)
    graph.finish()


def _transpose_input(graph: Graph, value_info: onnx.ValueInfoProto, axis: int) -> None:
    """Take rows first from callers, and transpose them for the operators that read this input."""
    inner, shape = graph.new_name(), dims_of(value_info)
    graph.rename(value_info.name, inner)
    graph.prepend(helper.make_node("Transpose", [value_info.name], [inner], perm=_input_order(len(shape), axis)))
    _reorder_dims(value_info, [axis, *(n for n in range(len(shape)) if n != axis)])


def _transpose_output(graph: Graph, value_info: onnx.ValueInfoProto, axis: int) -> None:
    inner = graph.new_name()
    graph.rename(value_info.name, inner)
    order = [axis, *(n for n in range(len(graph.shape(value_info.name))) if n != axis)]
    graph.append(helper.make_node("Transpose", [inner], [value_info.name], perm=order))
    if dims_of(value_info):
        _reorder_dims(value_info, order)


def _input_order(rank: int, axis: int) -> list[int]:
    """Return the permutation that moves the first dimension to `axis`."""
    rest = list(range(1, rank))
    return [*rest[:axis], 0, *rest[axis:]]


def _reorder_dims(value_info: onnx.ValueInfoProto, order: list[int]) -> None:
    sides = [value_info.type.tensor_type.shape.dim[n] for n in order]
    copies = [onnx.TensorShapeProto.Dimension.FromString(side.SerializeToString()) for side in sides]
    del value_info.type.tensor_type.shape.dim[:]
    value_info.type.tensor_type.shape.dim.extend(copies)


def _format_dims(shape: list[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
