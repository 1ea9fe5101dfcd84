"""Batch axis rules for operators that reorder, fold, slice and join dimensions; they free fixed batch sizes."""

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

LARGE = 1_000_000  # no batch has so many rows: a larger `ends` value means: to the end


def reshape(step: OperatorStep) -> AxisState:
    """Find the output dimension that starts a row. Raises RowsCoupled if the new shape crosses rows."""
    rows, shape, made, batch = step.rows, step.shape(), step.output_shape(), step.graph.batch
    before = prod(shape[: rows.axis])
    per_row = rows.group * prod(shape[rows.axis + 1 :])
    for axis in range(len(made)):
        rest = prod(made[axis + 1 :])
        if prod(made[:axis]) == before and made[axis] % batch == 0 and made[axis] // batch * rest == per_row:
            group = made[axis] // batch
            if batch == 1 and axis and group > rows.group:  # a batch of 1 vanishes anywhere
                message = "it folds a batch of 1 into another dimension"
                raise Undetermined(message)
            _free_target(step, axis, made, rows)
            return BatchAxis(axis, group)
    raise RowsCoupled(f"it reshapes {list(shape)} to {list(made)} across rows")


def _free_target(step: OperatorStep, axis: int, made: tuple[int, ...], rows: BatchAxis) -> None:
    """Set the batch dimension of a constant target shape to -1."""
    if len(step.node.input) < 2:
        raise Undetermined("its target shape is an attribute, as before opset 5")
    if isinstance(step.states[1], BatchSizeValues):
        return
    target = step.constant(1).astype(np.int64)
    copied = [n for n, side in enumerate(target) if side == 0 and not step.attr("allowzero", 0)]  # from the input
    is_open = target[axis] == -1 or (axis in copied and axis == rows.axis)
    if is_open and all(n == axis or n != rows.axis for n in copied):
        return
    # All other sides must be explicit, as only one may be -1.
    free_target = np.array([-1 if n == axis else side for n, side in enumerate(made)], np.int64)
    step.replace(1, free_target, f"its shape {target.tolist()} contained a batch of {step.graph.batch}")


def flatten(step: OperatorStep) -> AxisState:
    rows, shape = step.rows, step.shape()
    axis = normalize_axis(step.attr("axis", 1), len(shape))
    if rows.axis == 0 and axis >= 1:
        return BatchAxis(0, rows.group * prod(shape[1:axis]))
    raise RowsCoupled(f"it flattens {list(shape)} at {axis}, across rows")


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
            step.record_change("it removed every dimension of size 1; it now keeps the batch")
            step.graph.reinfer_shapes()
    axes = [normalize_axis(axis, len(shape)) for axis in axes]
    if rows.axis in axes:
        raise FixedBatchSize("it removes the batch dimension")
    return rows._replace(axis=rows.axis - sum(axis < rows.axis for axis in axes))


def unsqueeze(step: OperatorStep) -> AxisState:
    rows, rank = step.rows, len(step.shape())
    axes = sorted(normalize_axis(axis, rank + len(step.axes("axes", 1) or [])) for axis in step.axes("axes", 1) or [])
    at = rows.axis
    for axis in axes:
        at += axis <= at
    return rows._replace(axis=at)


def concat(step: OperatorStep) -> AxisState:
    batched = {at: state for at, state in enumerate(step.states) if isinstance(state, BatchAxis)}
    if len(set(batched.values())) != 1:
        raise Undetermined("its inputs have the batch in different dimensions")
    like, rows = next(iter(batched.items()))
    axis = normalize_axis(step.attr("axis"), len(step.shape(like)))
    if axis == rows.axis:
        raise RowsCoupled("it concatenates along the batch")
    for at in range(len(step.states)):
        if at not in batched:
            if rows.group != 1:
                raise Undetermined("it joins a constant to rows that are folded with another dimension")
            step.expand_constant(at, rows.axis, like)
    return rows


def split(step: OperatorStep) -> AxisState:
    _require_other_axis(step, step.attr("axis", 0), "it splits the batch")
    return step.rows


def slice_(step: OperatorStep) -> AxisState:
    rows, shape = step.rows, step.shape()
    starts, ends = (step.axes(name, at) or [] for name, at in (("starts", 1), ("ends", 2)))
    axes = step.axes("axes", 3) or list(range(len(starts)))
    steps = step.axes("steps", 4) or [1] * len(starts)
    for start, end, axis, by in zip(starts, ends, axes, steps, strict=True):
        is_whole = by == 1 and (start == 0 or start <= -LARGE)
        if normalize_axis(axis, len(shape)) == rows.axis and not (is_whole and end >= LARGE):
            if is_whole and end >= shape[rows.axis] and not step.is_open:
                message = f"it truncates the batch to {end} rows"
                raise FixedBatchSize(message)
            raise RowsCoupled(f"it selects rows {start} to {end} of the batch")
    return rows


def gather(step: OperatorStep) -> AxisState:
    data, indices = step.states[0], step.states[1]
    axis = normalize_axis(step.attr("axis", 0), len(step.shape()))
    if isinstance(data, BatchAxis) and isinstance(indices, BatchAxis):
        raise Undetermined("both its data and its indices have a batch dimension")
    if isinstance(indices, BatchAxis):  # a lookup table
        if isinstance(data, BatchSizeValues):
            message = "its table is computed from the batch size"
            raise Undetermined(message)
        return indices._replace(axis=axis + indices.axis)
    rows = step.rows
    if axis == rows.axis:
        raise RowsCoupled("it selects rows of the batch")
    return rows._replace(axis=rows.axis + (len(step.shape(1)) - 1 if axis < rows.axis else 0))


def gather_nd(step: OperatorStep) -> AxisState:
    data, indices = step.states[0], step.states[1]
    if isinstance(indices, BatchAxis) and data is None and not step.attr("batch_dims", 0):  # a lookup table
        return indices
    axis = step.graph.own_row_axis(step.node.input[1])
    if data != BatchAxis() or step.attr("batch_dims", 0) or axis is None:
        message = "its indices may point into other rows"
        raise Undetermined(message)
    return BatchAxis(axis)


def gather_elements(step: OperatorStep) -> AxisState:
    """GatherElements, ScatterElements: elementwise along one axis."""
    _require_other_axis(step, step.attr("axis", 0), "it selects elements along the batch")
    if any(state != step.rows for state in step.states):
        raise Undetermined("an input has no batch dimension, or has it elsewhere")
    return step.rows


def expand(step: OperatorStep) -> AxisState:
    rows, shape, made = step.rows, step.shape(), step.output_shape()
    axis = rows.axis + len(made) - len(shape)
    if not isinstance(step.states[1], BatchSizeValues):
        target = step.constant(1).astype(np.int64)
        at = axis - (len(made) - len(target))
        if at >= 0 and target[at] != 1:
            target[at] = 1
            step.replace(1, target, f"its target shape contained a batch of {step.graph.batch}")
    return rows._replace(axis=axis)


def tile(step: OperatorStep) -> AxisState:
    if step.output_shape()[step.rows.axis] != step.shape()[step.rows.axis]:
        raise RowsCoupled("it repeats the batch")
    return step.rows


def pad(step: OperatorStep) -> AxisState:
    rows, rank = step.rows, len(step.shape())
    pads = step.axes("pads", 1) or [0] * 2 * rank
    axes = [normalize_axis(axis, rank) for axis in (step.axes("axes", 3) or range(rank))]
    if rows.axis in axes:
        at = axes.index(rows.axis)
        if pads[at] or pads[at + len(axes)]:
            raise RowsCoupled("it pads the batch")
    return rows


def _require_other_axis(step: OperatorStep, axis: int, how: str) -> None:
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
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterElements": gather_elements,
    "Expand": expand,
    "Tile": tile,
    "Pad": pad,
}
