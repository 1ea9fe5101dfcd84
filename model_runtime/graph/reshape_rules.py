"""Rules for operators that move, fold and cut dimensions: where the rows go, and which constants bake the batch in."""

from math import prod

import numpy as np

from model_runtime.graph.batch_axis import (
    AxisState,
    BatchAxis,
    BatchSizeValues,
    FixedBatchSize,
    RowsCoupled,
    Undetermined,
)
from model_runtime.graph.operator import OperatorStep, normalize_axis

LARGE = 2**31 - 1  # an end beyond this means: to the end


def reshape(step: OperatorStep) -> AxisState:
    """The rows stay the outermost part of what they were, or they are lost."""
    rows, shape, made, batch = step.rows, step.shape(), step.made(), step.graph.batch
    before = prod(shape[: rows.axis])
    per_row = rows.each * prod(shape[rows.axis + 1 :])
    for axis in range(len(made)):
        rest = prod(made[axis + 1 :])
        if prod(made[:axis]) == before and made[axis] % batch == 0 and made[axis] // batch * rest == per_row:
            _free_target(step, axis, made, rows)
            return BatchAxis(axis, made[axis] // batch)
    message = f"it turns {list(shape)} into {list(made)} across the rows"
    raise RowsCoupled(message)


def _free_target(step: OperatorStep, axis: int, made: tuple[int, ...], rows: BatchAxis) -> None:
    """Let the place of the batch in a constant target be whatever comes."""
    if len(step.node.input) < 2:
        message = "its shape is an attribute, as before opset 5"
        raise Undetermined(message)
    if isinstance(step.states[1], BatchSizeValues):
        return
    target = step.constant(1).astype(np.int64)
    copied = [n for n, side in enumerate(target) if side == 0 and not step.attr("allowzero", 0)]  # from the input
    is_open = target[axis] == -1 or (axis in copied and axis == rows.axis)
    if is_open and all(n == axis or n != rows.axis for n in copied):
        return
    # Every other side is written out, so that the one of the batch can be the open one.
    opened = np.array([-1 if n == axis else side for n, side in enumerate(made)], np.int64)
    step.replace(1, opened, f"a batch of {step.graph.batch} was written into its shape {target.tolist()}")


def flatten(step: OperatorStep) -> AxisState:
    rows, shape = step.rows, step.shape()
    axis = normalize_axis(step.attr("axis", 1), len(shape))
    if rows.axis == 0 and axis >= 1:
        return BatchAxis(0, rows.each * prod(shape[1:axis]))
    message = f"it flattens {list(shape)} at {axis}, across the rows"
    raise RowsCoupled(message)


def transpose(step: OperatorStep) -> AxisState:
    order = step.attr("perm") or list(reversed(range(len(step.shape()))))
    return step.rows._replace(axis=list(order).index(step.rows.axis))


def squeeze(step: OperatorStep) -> AxisState:
    rows, shape = step.rows, step.shape()
    axes = step.axes("axes", 1)
    if axes is None:
        axes = [axis for axis, side in enumerate(shape) if side == 1 and axis != rows.axis]
        if shape[rows.axis] == 1:
            if step.graph.opset < 13:
                step.set("axes", axes)
            else:
                step.node.input.append(step.graph.add_constant(np.array(axes, np.int64)))
            step.changed("it drops every dimension of 1: now the batch is kept")
            step.graph.reinfer_shapes()
    axes = [normalize_axis(axis, len(shape)) for axis in axes]
    if rows.axis in axes:
        message = "it drops the batch dimension"
        raise FixedBatchSize(message)
    return rows._replace(axis=rows.axis - sum(axis < rows.axis for axis in axes))


def unsqueeze(step: OperatorStep) -> AxisState:
    rows, rank = step.rows, len(step.shape())
    axes = sorted(normalize_axis(axis, rank + len(step.axes("axes", 1) or [])) for axis in step.axes("axes", 1) or [])
    at = rows.axis
    for axis in axes:
        at += axis <= at
    return rows._replace(axis=at)


def concat(step: OperatorStep) -> AxisState:
    found = {at: state for at, state in enumerate(step.states) if isinstance(state, BatchAxis)}
    if len(set(found.values())) != 1:
        message = "its inputs have their rows in different dimensions"
        raise Undetermined(message)
    like, rows = next(iter(found.items()))
    axis = normalize_axis(step.attr("axis"), len(step.shape(like)))
    if axis == rows.axis:
        message = "it joins along the batch: rows are put behind one another"
        raise RowsCoupled(message)
    for at in range(len(step.states)):
        if at not in found:
            if rows.each != 1:
                message = "a constant is joined to rows that are folded with another dimension"
                raise Undetermined(message)
            step.freed(at, rows.axis, like)
    return rows


def split(step: OperatorStep) -> AxisState:
    _apart(step, step.attr("axis", 0), "it splits the batch")
    return step.rows


def slice_(step: OperatorStep) -> AxisState:
    rows, shape = step.rows, step.shape()
    starts, ends = (step.axes(name, at) or [] for name, at in (("starts", 1), ("ends", 2)))
    axes = step.axes("axes", 3) or list(range(len(starts)))
    steps = step.axes("steps", 4) or [1] * len(starts)
    for start, end, axis, by in zip(starts, ends, axes, steps, strict=True):
        if normalize_axis(axis, len(shape)) == rows.axis and not (start == 0 and by == 1 and end >= LARGE):
            if start == 0 and by == 1 and end >= shape[rows.axis] and not step.is_open:
                message = f"it cuts the batch at {end}"
                raise FixedBatchSize(message)
            message = f"it takes places {start} to {end} of the batch"
            raise RowsCoupled(message)
    return rows


def gather(step: OperatorStep) -> AxisState:
    data, indices = step.states[0], step.states[1]
    axis = normalize_axis(step.attr("axis", 0), len(step.shape()))
    if isinstance(data, BatchAxis) and isinstance(indices, BatchAxis):
        message = "both what it picks from and what it picks by have rows"
        raise Undetermined(message)
    if isinstance(indices, BatchAxis):  # a table, looked up
        return indices._replace(axis=axis + indices.axis)
    rows = step.rows
    if axis == rows.axis:
        message = "it picks rows out of the batch"
        raise RowsCoupled(message)
    return rows._replace(axis=rows.axis + (len(step.shape(1)) - 1 if axis < rows.axis else 0))


def same_axis_picks(step: OperatorStep) -> AxisState:
    """GatherElements, ScatterElements: element by element, along one axis."""
    _apart(step, step.attr("axis", 0), "it picks along the batch")
    if any(state != step.rows for state in step.states):
        message = "an input has no rows, or has them elsewhere"
        raise Undetermined(message)
    return step.rows


def expand(step: OperatorStep) -> AxisState:
    rows, shape, made = step.rows, step.shape(), step.made()
    axis = rows.axis + len(made) - len(shape)
    if not isinstance(step.states[1], BatchSizeValues):
        target = step.constant(1).astype(np.int64)
        at = axis - (len(made) - len(target))
        if at >= 0 and target[at] != 1:
            target[at] = 1
            step.replace(1, target, f"a batch of {step.graph.batch} was written into what it expands to")
    return rows._replace(axis=axis)


def tile(step: OperatorStep) -> AxisState:
    if step.constant(1)[step.rows.axis] != 1:
        message = "it repeats the batch"
        raise RowsCoupled(message)
    return step.rows


def pad(step: OperatorStep) -> AxisState:
    rows, rank = step.rows, len(step.shape())
    pads = step.axes("pads", 1) or [0] * 2 * rank
    axes = [normalize_axis(axis, rank) for axis in (step.axes("axes", 3) or range(rank))]
    if rows.axis in axes:
        at = axes.index(rows.axis)
        if pads[at] or pads[at + len(axes)]:
            message = "it pads the batch"
            raise RowsCoupled(message)
    return rows


def _apart(step: OperatorStep, axis: int, how: str) -> None:
    if normalize_axis(axis, len(step.shape())) == step.rows.axis:
        raise RowsCoupled(how)


RULES = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "GatherElements": same_axis_picks,
    "ScatterElements": same_axis_picks,
    "Expand": expand,
    "Tile": tile,
    "Pad": pad,
}
