"""One operator as its rule sees it: what comes in, where the rows are in it, and what may be mended."""

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from model_runtime.graph.batch_axis import (
    AxisState,
    BatchAxis,
    BatchSizeValues,
    FixedBatchSize,
    RowsCoupled,
    Undetermined,
)
from model_runtime.graph.graph import (
    PLACEHOLDER_BATCH_SIZE,
    Graph,
    Values,
    describe_node,
    format_shape,
    read_attribute,
    set_attribute,
)


class OperatorStep(NamedTuple):
    """`states`: one for each input of the node, None for one that is left out."""

    graph: Graph
    node: onnx.NodeProto
    states: list[AxisState]

    @property
    def rows(self) -> BatchAxis:
        """Where they are in the first input; raises Untold where it has none."""
        return self.rows_of(0)

    def rows_of(self, at: int) -> BatchAxis:
        state = self.states[at] if at < len(self.states) else None
        if isinstance(state, BatchAxis):
            return state
        message = f"its input {at + 1} has no rows"
        raise Undetermined(message)

    def has(self, at: int) -> bool:
        """Whether the input is there at all."""
        return at < len(self.node.input) and bool(self.node.input[at])

    def shape(self, at: int = 0) -> tuple[int, ...]:
        return self.graph.shape(self.node.input[at])

    def made(self, at: int = 0) -> tuple[int, ...]:
        """The shape of an output."""
        return self.graph.shape(self.node.output[at])

    def attr(self, name: str, default: Any = None) -> Any:
        return read_attribute(self.node, name, default)

    def constant(self, at: int) -> Values:
        """An input's values; raises Untold where they are not known beforehand."""
        name = self.node.input[at]
        if not self.graph.is_constant(name):
            message = f"its input {at + 1} is computed"
            raise Undetermined(message)
        return self.graph.constant(name)

    def axes(self, name: str, at: int) -> list[int] | None:
        """Axes by attribute or, in later opsets, by input; None where neither says any."""
        if (written := self.attr(name)) is not None:
            return [written] if isinstance(written, int) else list(written)
        return [int(axis) for axis in self.constant(at).ravel()] if self.has(at) else None

    def only_first(self) -> None:
        """Others than the first input may not have rows."""
        for at, state in enumerate(self.states[1:], 2):
            if isinstance(state, BatchAxis):
                message = f"its input {at} has rows too"
                raise Undetermined(message)

    def replace(self, at: int, values: Values, change: str) -> None:
        """Give the node another constant."""
        self.node.input[at] = self.graph.add_constant(values)
        self.changed(change)

    def changed(self, change: str) -> None:
        self.graph.changes.append(f"{describe_node(self.node)}: {change}")

    def set(self, name: str, value: Any) -> None:
        set_attribute(self.node, name, value)

    def coupled(self, how: str) -> RowsCoupled:
        return RowsCoupled(how)

    def freed(self, at: int, axis: int, like: int) -> None:
        """Make a constant input as long as the batch, along `axis`: its one row is repeated for as many as come.

        `like`: an input whose rows say how many. Raises Baked where the constant has rows that differ.
        """
        shape, name = self.shape(at), self.node.input[at]
        if shape[axis] != 1:
            values = self.constant(at)
            first = values.take([0], axis)
            if not (values == first).all():
                message = f"a constant of {format_shape(shape)} has a part of its own for each place of the batch"
                raise FixedBatchSize(message)
            name = self.graph.add_constant(first)
        source, rows = self.node.input[like], self.rows_of(like)
        whole, size, target, out = (self.graph.fresh() for _ in range(4))
        where, each = (self.graph.add_constant(np.array([n], np.int64)) for n in (rows.axis, rows.each))
        before, after = (self.graph.add_constant(np.ones(n, np.int64)) for n in (axis, len(shape) - axis - 1))
        count = self.graph.fresh()
        self.graph.put_before(
            self.node,
            helper.make_node("Shape", [source], [whole]),
            helper.make_node("Gather", [whole, where], [size], axis=0),
            helper.make_node("Div", [size, each], [count]),
            helper.make_node("Concat", [before, count, after], [target], axis=0),
            helper.make_node("Expand", [name, target], [out]),
        )
        self.node.input[at] = out
        self.changed(f"a constant that was made for a batch of {self.graph.batch} is repeated for as many as come")

    @property
    def is_open(self) -> bool:
        """Whether the model takes any batch as it is declared."""
        return self.graph.batch == PLACEHOLDER_BATCH_SIZE


def normalize_axis(axis: int, rank: int) -> int:
    """Counted from the front."""
    return axis + rank if axis < 0 else axis


__all__ = ["BatchSizeValues", "FixedBatchSize", "OperatorStep", "Undetermined", "normalize_axis"]
