"""What stands in the way of batching a model, in an operator's words, and the copy in which it does not."""

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
    """`obstacles`: what stands in the way. `fatal`: of these, what no copy can mend. `doubts`: what can not be told.

    `mended`: the copy in which every obstacle is gone; None where that can not be, or where nothing has to be mended.
    """

    obstacles: list[str] = field(default_factory=list)
    fatal: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    mended: onnx.ModelProto | None = None


def diagnose(model: onnx.ModelProto) -> Diagnosis:
    """Look at everything there is to see without running it. `model` stays as it is."""
    found = Diagnosis()
    if unknown := unknown_operators(model):
        found.fatal += [f"unknown operator {name}: neither ONNX nor ONNX Runtime has it" for name in unknown]
        return found
    axes = {value_info.name: _batch_axis(dims_of(value_info)) for value_info in inputs_of(model)}
    flow, graph = _follow(model, axes)
    if flow.is_turned and (other := _transposed(model, axes)):
        flow, graph, axes = other
    _diagnose_tensors(found, graph, axes)
    found.obstacles += graph.changes
    found.fatal += [f"{line} (rows would mix)" for line in flow.coupled] + flow.baked
    found.doubts += flow.untold
    for name, state in flow.ends.items():
        if not isinstance(state, BatchAxis) or state.each != 1:
            found.fatal.append(f"output {name!r} is not by rows: it is one answer for the whole batch")
    if not found.fatal and not found.doubts:
        _open_batch_axis(found, graph, axes, flow)
        if found.obstacles:
            found.mended = graph.model
    return found


def unknown_operators(model: onnx.ModelProto) -> list[str]:
    """By name, in ONNX's own domain and in those that nothing here has; a function in the file defines its own."""
    defined = {(one.domain, one.name) for one in model.functions}
    names = set()
    for node in _all_nodes(model.graph):
        domain = "" if node.domain in _STANDARD_DOMAINS else node.domain
        foreign = domain and not domain.startswith(("com.microsoft", "ai.onnx", "com.ms", "org.pytorch"))
        if (domain, node.op_type) not in defined and (foreign or (not domain and not onnx.defs.has(node.op_type))):
            names.add(f"{domain}.{node.op_type}" if domain else node.op_type)
    return sorted(names)


def _all_nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for one in node.attribute:
            for inner in [one.g] if one.type == onnx.AttributeProto.GRAPH else one.graphs:
                yield from _all_nodes(inner)


def _batch_axis(shape: list[int | str]) -> int:
    """The first, unless another is open and says by its name that it is the batch."""
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
        return FlowResult(baked=[f"input {name!r} is a scalar: one for the whole batch" for name in scalars]), graph
    return trace_batch_axes(graph, axes), graph


def _transposed(model: onnx.ModelProto, axes: dict[str, int]) -> tuple[FlowResult, Graph, dict[str, int]] | None:
    """The same with the batch in the second dimension, as recurrent networks have it, where that goes well."""
    second = {
        value_info.name: 1 if len(dims_of(value_info)) > 1 and axes[value_info.name] == 0 else axes[value_info.name]
        for value_info in inputs_of(model)
    }
    if second == axes:
        return None
    flow, graph = _follow(model, second)
    lost = flow.coupled or flow.baked or flow.untold
    return None if lost else (flow, graph, second)


def _diagnose_tensors(found: Diagnosis, graph: Graph, axes: dict[str, int]) -> None:
    for value_info in graph.inputs:
        shape = dims_of(value_info)
        if not shape:
            continue
        axis = axes[value_info.name]
        if axis:
            words = (
                f"input {value_info.name!r} {_shown(shape)} has its batch in dimension {axis + 1}; rows come first here"
            )
            found.obstacles.append(words)
        if isinstance(shape[axis], int):
            found.obstacles.append(f"input {value_info.name!r} {_shown(shape)} is fixed to a batch of {shape[axis]}")
    for value_info in graph.graph.output:
        shape = dims_of(value_info)
        if shape and isinstance(shape[0], int) and not any(axes.values()):
            found.obstacles.append(f"output {value_info.name!r} {_shown(shape)} is declared for a batch of {shape[0]}")


def _open_batch_axis(found: Diagnosis, graph: Graph, axes: dict[str, int], flow: FlowResult) -> None:
    """Free the batch dimension of inputs and outputs, and move it to the front where it is not."""
    for value_info in graph.inputs:
        axis = axes[value_info.name]
        set_dim(value_info, axis, BATCH)
        if axis:
            _turn_input(graph, value_info, axis)
    for value_info in graph.graph.output:
        rows = flow.ends[value_info.name]
        if isinstance(rows, BatchAxis) and rows.axis:
            found.obstacles.append(
                f"output {value_info.name!r} has its batch in dimension {rows.axis + 1}; it is to be first"
            )
            _turn_output(graph, value_info, rows.axis)
    graph.finish()


def _turn_input(graph: Graph, value_info: onnx.ValueInfoProto, axis: int) -> None:
    """Callers give rows first; what reads it goes on reading it as before."""
    inner, shape = graph.fresh(), dims_of(value_info)
    graph.rename(value_info.name, inner)
    graph.put_first(helper.make_node("Transpose", [value_info.name], [inner], perm=_order_in(len(shape), axis)))
    _reorder(value_info, [axis, *(n for n in range(len(shape)) if n != axis)])


def _turn_output(graph: Graph, value_info: onnx.ValueInfoProto, axis: int) -> None:
    inner = graph.fresh()
    graph.rename(value_info.name, inner)
    order = [axis, *(n for n in range(len(graph.shape(value_info.name))) if n != axis)]
    graph.put_last(helper.make_node("Transpose", [inner], [value_info.name], perm=order))
    if dims_of(value_info):
        _reorder(value_info, order)


def _order_in(rank: int, axis: int) -> list[int]:
    """From rows first to rows at `axis`."""
    rest = list(range(1, rank))
    return [*rest[:axis], 0, *rest[axis:]]


def _reorder(value_info: onnx.ValueInfoProto, order: list[int]) -> None:
    sides = [value_info.type.tensor_type.shape.dim[n] for n in order]
    copies = [onnx.TensorShapeProto.Dimension.FromString(side.SerializeToString()) for side in sides]
    del value_info.type.tensor_type.shape.dim[:]
    value_info.type.tensor_type.shape.dim.extend(copies)


def _shown(shape: list[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
