"""Give batch axis rules access to one operator: its inputs, their batch axes, and repairs of its constants."""

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from model_runtime.graph.batch_axis import AxisState, BatchAxis, BatchSizeValues, FixedBatchSize, Undetermined
from model_runtime.graph.graph import (
    Graph,
    Values,
    describe_node,
    read_attribute,
    set_attribute,
)


class OperatorStep(NamedTuple):
    """One operator of a graph. `states`: the state of each input; None for an omitted input."""

    graph: Graph
    node: onnx.NodeProto
    states: list[AxisState]

    @property
    def rows(self) -> BatchAxis:
        """Return the batch axis of the first input. Raises Undetermined if it has none."""
        return self.rows_of(0)

    def rows_of(self, at: int) -> BatchAxis:
        """Return the batch axis of an input. Raises Undetermined if it has none."""
        state = self.states[at] if at < len(self.states) else None
        if isinstance(state, BatchAxis):
            return state
        raise Undetermined(f"its input {at + 1} has no batch dimension")

    def has_input(self, at: int) -> bool:
        """Return true if the input is present."""
        return at < len(self.node.input) and bool(self.node.input[at])

    def shape(self, at: int = 0) -> tuple[int, ...]:
        return self.graph.shape(self.node.input[at])

    def output_shape(self, at: int = 0) -> tuple[int, ...]:
        """Return the shape of an output."""
        return self.graph.shape(self.node.output[at])

    def attr(self, name: str, default: Any = None) -> Any:
        return read_attribute(self.node, name, default)

    def constant(self, at: int) -> Values:
        """Return an input's values. Raises Undetermined if it is not a constant."""
        name = self.node.input[at]
        if isinstance(self.states[at], BatchAxis | BatchSizeValues) or not self.graph.is_constant(name):
            raise Undetermined(f"its input {at + 1} is not a constant")
        return self.graph.constant(name)

    def axes(self, name: str, at: int) -> list[int] | None:
        """Return the axes from the attribute or, in later opsets, from the input; None if neither exists."""
        if (value := self.attr(name)) is not None:
            return [value] if isinstance(value, int) else list(value)
        return [int(axis) for axis in self.constant(at).ravel()] if self.has_input(at) else None

    def require_unbatched_others(self) -> None:
        """Raise Undetermined if an input other than the first has a batch dimension."""
        for at, state in enumerate(self.states[1:], 2):
            if isinstance(state, BatchAxis):
                raise Undetermined(f"its input {at} has a batch dimension too")

    def replace(self, at: int, values: Values, change: str) -> None:
        """Replace a constant input of the node, and record the change."""
        self.node.input[at] = self.graph.add_constant(values)
        self.record_change(change)

    def record_change(self, change: str) -> None:
        self.graph.changes.append(f"{describe_node(self.node)}: {change}")

    def set(self, name: str, value: Any) -> None:
        set_attribute(self.node, name, value)

    def expand_constant(self, at: int, axis: int, like: int) -> None:
        """Replace a constant input by nodes that repeat its row along `axis` to the batch size at run time.

        `like`: the input that the batch size is read from. Raises FixedBatchSize if the constant's rows differ.
        """
        shape, name = self.shape(at), self.node.input[at]
        if shape[axis] != 1:
            values = self.constant(at)
            first = values.take([0], axis)
            if not (values == first).all():
                message = f"a constant of shape {list(shape)} has different values for each row of the batch"
                raise FixedBatchSize(message)
            name = self.graph.add_constant(first)
        source, rows = self.node.input[like], self.rows_of(like)
        source_shape, size, target, out = (self.graph.new_name() for _ in range(4))
        where, group = (self.graph.add_constant(np.array([n], np.int64)) for n in (rows.axis, rows.group))
        before, after = (self.graph.add_constant(np.ones(n, np.int64)) for n in (axis, len(shape) - axis - 1))
        count = self.graph.new_name()
        self.graph.insert_before(
            self.node,
            helper.make_node("Shape", [source], [source_shape]),
            helper.make_node("Gather", [source_shape, where], [size], axis=0),
            helper.make_node("Div", [size, group], [count]),
            helper.make_node("Concat", [before, count, after], [target], axis=0),
            helper.make_node("Expand", [name, target], [out]),
        )
        self.node.input[at] = out
        self.record_change(f"a constant for a batch of {self.graph.batch} is now repeated to the batch size")

    @property
    def is_open(self) -> bool:
        """Return true if the model declares a free batch dimension."""
        return self.graph.is_open


def normalize_axis(axis: int, rank: int) -> int:
    """Return the axis counted from the front."""
    return axis + rank if axis < 0 else axis
