"""Diagnose why a model cannot be batched, in terms an operator understands, and build a repaired copy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import onnx
from onnx import helper, numpy_helper

from model_runtime.graph.batch_axis import BatchAxis
from model_runtime.graph.batch_axis_flow import FlowResult, trace_batch_axes
from model_runtime.graph.graph import BATCH, Graph, all_nodes, dims_of, inputs_of, set_dim
from model_runtime.spec.tensors import InputSpec

_BATCH_NAMES: Final = frozenset({"batch", "batch_size", "batchsize", "bs", "n", "b", "none"})
_STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx"})


@dataclass
class Diagnosis:
    """`obstacles`: repairable reasons. `fatal`: reasons that cannot be repaired. `doubts`: unknown operators or shapes.

    `keys`: reasons that keys of model.toml remove; `suggested`: keys that may help, by input. `is_open`: the batch is
    free. `may_lack_batch`: no dimension is
    named like a batch. `notes`: what is unusual and does no harm. `mended`: a copy without
    the obstacles; None if there are none, or if `fatal`, `doubts` or `keys` is not empty.
    """

    obstacles: list[str] = field(default_factory=list)
    fatal: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    suggested: dict[str, InputSpec] = field(default_factory=dict)
    may_lack_batch: bool = False
    is_open: bool = False
    notes: list[str] = field(default_factory=list)
    mended: onnx.ModelProto | None = None


def diagnose(model: onnx.ModelProto, row_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Diagnosis:
    """Follow the batch through the graph. `model` is not changed. `row_shapes`: of inputs with free dimensions."""
    diagnosis, row_shapes = Diagnosis(), row_shapes or {}
    if unknown := unknown_operators(model):
        diagnosis.fatal += [f"unknown operator {name}: neither ONNX nor ONNX Runtime has it" for name in unknown]
        return diagnosis
    inputs = inputs_of(model)
    axes = _batch_axes(inputs)
    names = [str(dims_of(value_info)[0]).lower() for value_info in inputs if dims_of(value_info)]
    diagnosis.may_lack_batch = not any(name in _BATCH_NAMES for name in names)
    flow, graph = _follow(model, axes, row_shapes)
    if flow.has_wrong_axis and (transposed := _follow_transposed(model, axes, row_shapes)):
        flow, graph, axes = transposed
    if flow.has_wrong_axis and diagnosis.may_lack_batch:  # perhaps the batch is elsewhere
        flow.undetermined, flow.coupled = flow.coupled, []
    diagnosis.fatal += [f"{line} (rows would mix)" for line in flow.coupled] + flow.fixed + flow.random
    diagnosis.doubts += flow.undetermined
    for name, state in flow.output_states.items():
        if not isinstance(state, BatchAxis) or state.group != 1:
            diagnosis.fatal.append(f"output {name!r} has no batch dimension: it is one result for the whole batch")
    diagnosis.is_open = graph.is_open
    _diagnose_tensors(diagnosis, graph, axes, flow)
    diagnosis.obstacles += graph.changes
    if diagnosis.obstacles and not (diagnosis.fatal or diagnosis.doubts or diagnosis.keys):
        _open_batch_axis(diagnosis, graph, axes, flow)
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


def _batch_axes(inputs: Sequence[onnx.ValueInfoProto]) -> dict[str, int]:
    """Return the first dimension of each input, unless another one is named like a batch.

    A first dimension above 1, beside another input whose first is free or 1, is no batch either, if only one dimension
    of this input is free or 1.
    """
    shapes = {value_info.name: dims_of(value_info) for value_info in inputs}
    others = {shape[0] if isinstance(shape[0], int) else 0 for shape in shapes.values() if shape} & {0, 1}
    axes = dict[str, int]()
    for name, shape in shapes.items():
        axes[name] = _batch_axis(shape)
        candidates = [axis for axis, size in enumerate(shape) if isinstance(size, str) or size == 1]
        if axes[name] == 0 and others and len(candidates) == 1 and isinstance(shape[0], int) and shape[0] > 1:
            axes[name] = candidates[0]
    return axes


def _batch_axis(shape: list[int | str]) -> int:
    names = [str(side).lower() for side in shape]
    if names and names[0] not in _BATCH_NAMES:
        return next((axis for axis, name in enumerate(names) if name in _BATCH_NAMES), 0)
    return 0


def _compared_value(model: onnx.ModelProto, name: str) -> int | float:
    """Return a constant that the graph compares a scalar input with, or else 1."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        if node.op_type == "Equal" and name in node.input:
            for other in node.input:
                if other in constants and (values := numpy_helper.to_array(constants[other])).size == 1:
                    return values.ravel().tolist()[0]  # type: ignore[no-any-return]
    return 1


def _follow(
    model: onnx.ModelProto, axes: dict[str, int], row_shapes: Mapping[str, tuple[int, ...]]
) -> tuple[FlowResult, Graph]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy, axes, row_shapes)
    return trace_batch_axes(graph, axes), graph


def _follow_transposed(
    model: onnx.ModelProto, axes: dict[str, int], row_shapes: Mapping[str, tuple[int, ...]]
) -> tuple[FlowResult, Graph, dict[str, int]] | None:
    """Trace with the batch in the second dimension, as in recurrent networks. Return None if that fails too."""
    second = {
        value_info.name: 1 if len(dims_of(value_info)) > 1 and axes[value_info.name] == 0 else axes[value_info.name]
        for value_info in inputs_of(model)
    }
    if second == axes:
        return None
    flow, graph = _follow(model, second, row_shapes)
    failed = flow.coupled or flow.fixed or flow.undetermined or flow.random
    return None if failed else (flow, graph, second)


def _diagnose_tensors(diagnosis: Diagnosis, graph: Graph, axes: dict[str, int], flow: FlowResult) -> None:
    for value_info in graph.inputs:
        shape, name = dims_of(value_info), value_info.name
        if not shape:
            diagnosis.keys.append(f"input {name!r} is a scalar, shared by the whole batch: [inputs.{name}] value = …")
            diagnosis.suggested[name] = InputSpec(value=_compared_value(graph.model, name))
            continue
        axis = axes[name]
        described = f"input {name!r} {_format_dims(shape)}"
        if axis:
            remedy = f"Jitney needs it first, or [inputs.{name}] batch_axis = {axis} in model.toml"
            diagnosis.suggested[name] = InputSpec(batch_axis=axis)
            diagnosis.obstacles.append(f"{described} has its batch in dimension {axis + 1}; {remedy}")
        if isinstance(shape[axis], int):
            diagnosis.obstacles.append(f"{described} is fixed to a batch of {shape[axis]}")
    for value_info in graph.graph.output:
        shape, state = dims_of(value_info), flow.output_states.get(value_info.name)
        described = f"output {value_info.name!r} {_format_dims(shape)}"
        if isinstance(state, BatchAxis) and graph.is_open:
            if state.axis and not any(axes.values()):
                diagnosis.notes.append(
                    f"{described} has its batch in dimension {state.axis + 1}: workers find it, or "
                    f"[outputs.{value_info.name}] batch_axis = {state.axis} in model.toml"
                )
            elif state.axis < len(shape) and isinstance(shape[state.axis], int):
                diagnosis.notes.append(f"{described} is declared wrongly: it follows the batch")
        elif shape and isinstance(shape[0], int) and not any(axes.values()):
            diagnosis.obstacles.append(f"{described} is declared for a batch of {shape[0]}")


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
