"""Trace the batch axis from the inputs of a graph to its outputs, and free fixed batch sizes on the way."""

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

# Operators whose results are still computed from the batch size if their inputs are.
_ARITHMETIC: Final = frozenset(
    """
    Abs Add Cast Ceil Concat ConstantOfShape Div Equal Expand Flatten Floor Gather Greater Identity Less Max Min Mod
    Mul Neg Not Range ReduceProd ReduceSum Reshape ScatterND Slice Split Sqrt Squeeze Sub Sum Transpose Unsqueeze Where
    """.split()  # noqa: SIM905 - a table of names is easier to read as words
)
_SUBGRAPH_OPERATORS: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass
class FlowResult:
    """The result of a trace; the lists have one line per operator. `output_states`: the batch axis of each output.

    `has_wrong_axis`: the operator in `coupled` expects the batch in another dimension.
    """

    has_wrong_axis: bool = False
    coupled: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)
    undetermined: list[str] = field(default_factory=list)
    output_states: dict[str, AxisState] = field(default_factory=dict)


def trace_batch_axes(graph: Graph, batch_axes: dict[str, int]) -> FlowResult:
    """Apply each operator's rule in topological order. Stop at the first operator that loses the batch axis."""
    flow, states = FlowResult(), dict[str, AxisState]()
    for value_info in graph.inputs:
        states[value_info.name] = BatchAxis(batch_axes[value_info.name])
    for node in graph.graph.node:
        input_states = [states.get(name) for name in node.input]
        try:
            output_states = _apply_rule(OperatorStep(graph, node, input_states))
        except RowsCoupled as error:
            flow.coupled.append(f"{describe_node(node)}: {error}")
            flow.has_wrong_axis = isinstance(error, WrongBatchAxis)
            return flow
        except FixedBatchSize as error:
            flow.fixed.append(f"{describe_node(node)}: {error}")
            return flow
        except (Undetermined, KeyError, IndexError, TypeError, ValueError) as error:
            flow.undetermined.append(f"{describe_node(node)}: {error}")
            return flow
        states.update(zip(node.output, output_states, strict=False))
    flow.output_states = {value_info.name: states.get(value_info.name) for value_info in graph.graph.output}
    return flow


def _apply_rule(step: OperatorStep) -> list[AxisState]:
    """Return the state of each output."""
    node, count = step.node, len(step.node.output)
    if node.op_type in _SUBGRAPH_OPERATORS:
        raise Undetermined("the doctor does not analyse its subgraphs")
    if not any(isinstance(state, BatchAxis) for state in step.states):
        return _batch_size_values(node, count) if BatchSizeValues() in step.states else [None] * count
    if (rule := RULES.get(node.op_type)) is None:
        raise Undetermined("the doctor does not know what it does to the rows")
    result = rule(step)
    return result if isinstance(result, list) else [result] * count


def _batch_size_values(node: onnx.NodeProto, count: int) -> list[AxisState]:
    if node.op_type in _ARITHMETIC:
        return [BatchSizeValues()] * count
    raise Undetermined("it computes with the batch size")
