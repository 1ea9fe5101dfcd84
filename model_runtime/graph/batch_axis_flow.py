"""Trace the batch axis from the inputs of a graph to its outputs, and free fixed batch sizes on the way."""

from dataclasses import dataclass, field
from typing import Final

from model_runtime.graph.batch_axis import (
    AxisState,
    BatchAxis,
    BatchSizeValues,
    FixedBatchSize,
    RandomValues,
    RowsCoupled,
    Undetermined,
    WrongBatchAxis,
)
from model_runtime.graph.compute_rules import RULES
from model_runtime.graph.graph import Graph, describe_node, dims_of
from model_runtime.graph.operator import OperatorStep

_RANDOM: Final = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_RULE_ERRORS: Final = (KeyError, IndexError, TypeError, ValueError)  # of rules for inputs that are unusual
_SUBGRAPH_OPERATORS: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass
class FlowResult:
    """The result of a trace; the lists have one line per operator. `output_states`: the batch axis of each output.

    `has_wrong_axis`: the operator in `coupled` expects the batch in another dimension.
    """

    has_wrong_axis: bool = False
    coupled: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)
    random: list[str] = field(default_factory=list)
    undetermined: list[str] = field(default_factory=list)
    output_states: dict[str, AxisState] = field(default_factory=dict)


def trace_batch_axes(graph: Graph, batch_axes: dict[str, int]) -> FlowResult:
    """Apply each operator's rule in topological order. Stop at the first operator that loses the batch axis."""
    flow, states = FlowResult(), dict[str, AxisState]()
    for value_info in graph.inputs:
        # A scalar, or another input without a batch dimension, is the same for the whole batch.
        if dims_of(value_info) and value_info.name in batch_axes:
            states[value_info.name] = BatchAxis(batch_axes[value_info.name])
    computed = set[str]()  # tensors that depend on the batch size alone
    for node in graph.graph.node:
        input_states = [states.get(name) for name in node.input]
        if computed.issuperset(name for name in node.input if states.get(name) is not None):
            input_states = [BatchSizeValues() if name in computed else None for name in node.input]
        try:
            output_states = _apply_rule(OperatorStep(graph, node, input_states))
        except (RowsCoupled, RandomValues, FixedBatchSize, Undetermined, *_RULE_ERRORS) as error:
            _record(flow, f"{describe_node(node)}: {error}", error)
            return flow
        for name, state in zip(node.output, output_states, strict=False):
            states[name] = graph.observed_rows(name) if isinstance(state, BatchSizeValues) else state
            if isinstance(state, BatchSizeValues):
                computed.add(name)
    flow.output_states = {value_info.name: states.get(value_info.name) for value_info in graph.graph.output}
    return flow


def _record(flow: FlowResult, line: str, error: Exception) -> None:
    if isinstance(error, RowsCoupled):
        flow.coupled.append(line)
        flow.has_wrong_axis = isinstance(error, WrongBatchAxis)
    elif isinstance(error, RandomValues):
        flow.random.append(line)
    elif isinstance(error, FixedBatchSize):
        flow.fixed.append(line)
    else:
        flow.undetermined.append(line)


def _apply_rule(step: OperatorStep) -> list[AxisState]:
    """Return the state of each output."""
    node, count = step.node, len(step.node.output)
    if node.op_type in _RANDOM or (node.op_type == "Dropout" and _is_training(step)):
        message = "its values are random: no two runs give the same answer, alone or in a batch"
        raise RandomValues(message)
    if node.op_type in _SUBGRAPH_OPERATORS:
        raise Undetermined("the doctor does not analyse its subgraphs")
    if not any(isinstance(state, BatchAxis) for state in step.states):
        return [BatchSizeValues() if BatchSizeValues() in step.states else None] * count
    if (rule := RULES.get(node.op_type)) is None:
        raise Undetermined("the doctor does not know what it does to the rows")
    result = rule(step)
    return result if isinstance(result, list) else [result] * count


def _is_training(step: OperatorStep) -> bool:
    """Return true for a Dropout that drops values. Raises Undetermined if that is computed."""
    return step.graph.opset >= 12 and step.has_input(2) and bool(step.constant(2).any())
