"""Follows the rows of a batch from the inputs to the outputs, and mends what bakes the batch size in on the way."""

from dataclasses import dataclass, field
from typing import Final

import onnx

from model_runtime.graph.batch_axis import (
    AxisState,
    BatchAxis,
    BatchSizeValues,
    FixedBatchSize,
    RowsCoupled,
    Undetermined,
    WrongBatchAxis,
)
from model_runtime.graph.compute_rules import RULES
from model_runtime.graph.graph import Graph, describe_node
from model_runtime.graph.operator import OperatorStep

# Numbers made of the batch size go through these and are still such.
_ARITHMETIC: Final = frozenset(
    """
    Abs Add Cast Ceil Concat ConstantOfShape Div Equal Expand Flatten Floor Gather Greater Identity Less Max Min Mod
    Mul Neg Not Range ReduceProd ReduceSum Reshape ScatterND Slice Split Sqrt Squeeze Sub Sum Transpose Unsqueeze Where
    """.split()  # noqa: SIM905 - a table of names is read as words
)
_SUBGRAPH_OPERATORS: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass
class FlowResult:
    """What the way through a graph has shown; one line for each operator. `ends`: where each output has its rows.

    `is_turned`: the operator that lost them would have kept them, were they in another dimension.
    """

    is_turned: bool = False
    coupled: list[str] = field(default_factory=list)
    baked: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    ends: dict[str, AxisState] = field(default_factory=dict)


def trace_batch_axes(graph: Graph, batch_axes: dict[str, int]) -> FlowResult:
    """Walk once, in the graph's own order, which is that of computing. Stops at what loses the rows."""
    flow, states = FlowResult(), dict[str, AxisState]()
    for value_info in graph.inputs:
        states[value_info.name] = BatchAxis(batch_axes[value_info.name])
    for node in graph.nodes():
        taken = [states.get(name) for name in node.input]
        try:
            made = _apply_rule(OperatorStep(graph, node, taken))
        except RowsCoupled as error:
            flow.coupled.append(f"{describe_node(node)}: {error}")
            flow.is_turned = isinstance(error, WrongBatchAxis)
            return flow
        except FixedBatchSize as error:
            flow.baked.append(f"{describe_node(node)}: {error}")
            return flow
        except (Undetermined, KeyError, IndexError, TypeError, ValueError) as error:
            flow.untold.append(f"{describe_node(node)}: {error}")
            return flow
        states.update(zip(node.output, made, strict=False))
    flow.ends = {value_info.name: states.get(value_info.name) for value_info in graph.graph.output}
    return flow


def _apply_rule(step: OperatorStep) -> list[AxisState]:
    """Where the rows are in each output."""
    node, count = step.node, len(step.node.output)
    if node.op_type in _SUBGRAPH_OPERATORS:
        message = "what is inside of it is not looked at"
        raise Undetermined(message)
    if not any(isinstance(state, BatchAxis) for state in step.states):
        return _batch_size_values(node, count) if BatchSizeValues() in step.states else [None] * count
    if (rule := RULES.get(node.op_type)) is None:
        message = "the doctor does not know what it does to the rows"
        raise Undetermined(message)
    made = rule(step)
    return made if isinstance(made, list) else [made] * count


def _batch_size_values(node: onnx.NodeProto, count: int) -> list[AxisState]:
    if node.op_type in _ARITHMETIC:
        return [BatchSizeValues()] * count
    message = "it computes with the batch size"
    raise Undetermined(message)
