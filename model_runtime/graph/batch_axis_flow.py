"""Follows the rows of a batch from the inputs to the outputs, and mends what bakes the batch size in on the way."""

from dataclasses import dataclass, field
from typing import Final

import onnx

from model_runtime.graph.batch_axis import Baked, Counts, Coupled, Rows, State, Turned, Untold
from model_runtime.graph.compute_rules import RULES
from model_runtime.graph.graph import Graph, named
from model_runtime.graph.operator import Step

# Numbers made of the batch size go through these and are still such.
_ARITHMETIC: Final = frozenset(
    """
    Abs Add Cast Ceil Concat ConstantOfShape Div Equal Expand Flatten Floor Gather Greater Identity Less Max Min Mod
    Mul Neg Not Range ReduceProd ReduceSum Reshape ScatterND Slice Split Sqrt Squeeze Sub Sum Transpose Unsqueeze Where
    """.split()  # noqa: SIM905 - a table of names is read as words
)
_WITHIN: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass
class Course:
    """What the way through a graph has shown; one line for each operator. `ends`: where each output has its rows.

    `is_turned`: the operator that lost them would have kept them, were they in another dimension.
    """

    is_turned: bool = False
    coupled: list[str] = field(default_factory=list)
    baked: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    ends: dict[str, State] = field(default_factory=dict)


def follow(graph: Graph, batch_axes: dict[str, int]) -> Course:
    """Walk once, in the graph's own order, which is that of computing. Stops at what loses the rows."""
    course, states = Course(), dict[str, State]()
    for port in graph.inputs:
        states[port.name] = Rows(batch_axes[port.name])
    for node in graph.nodes():
        taken = [states.get(name) for name in node.input]
        try:
            made = _passed(Step(graph, node, taken))
        except Coupled as error:
            course.coupled.append(f"{named(node)}: {error}")
            course.is_turned = isinstance(error, Turned)
            return course
        except Baked as error:
            course.baked.append(f"{named(node)}: {error}")
            return course
        except (Untold, KeyError, IndexError, TypeError, ValueError) as error:
            course.untold.append(f"{named(node)}: {error}")
            return course
        states.update(zip(node.output, made, strict=False))
    course.ends = {port.name: states.get(port.name) for port in graph.graph.output}
    return course


def _passed(step: Step) -> list[State]:
    """Where the rows are in each output."""
    node, count = step.node, len(step.node.output)
    if node.op_type in _WITHIN:
        message = "what is inside of it is not looked at"
        raise Untold(message)
    if not any(isinstance(state, Rows) for state in step.states):
        return _counted(node, count) if Counts() in step.states else [None] * count
    if (rule := RULES.get(node.op_type)) is None:
        message = "the doctor does not know what it does to the rows"
        raise Untold(message)
    made = rule(step)
    return made if isinstance(made, list) else [made] * count


def _counted(node: onnx.NodeProto, count: int) -> list[State]:
    if node.op_type in _ARITHMETIC:
        return [Counts()] * count
    message = "it computes with the batch size"
    raise Untold(message)
