"""Rules for operators that move, fold and cut dimensions: where the rows go, and which constants bake the batch in."""

from math import prod

import numpy as np

from model_runtime.graph.batch_axis import Baked, Counts, Coupled, Rows, State, Untold
from model_runtime.graph.operator import Step, normal

LARGE = 2**31 - 1  # an end beyond this means: to the end


def reshape(step: Step) -> State:
    """The rows stay the outermost part of what they were, or they are lost."""
    rows, shape, made, batch = step.rows, step.shape(), step.made(), step.graph.batch
    before = prod(shape[: rows.axis])
    per_row = rows.each * prod(shape[rows.axis + 1 :])
    for axis in range(len(made)):
        rest = prod(made[axis + 1 :])
        if prod(made[:axis]) == before and made[axis] % batch == 0 and made[axis] // batch * rest == per_row:
            _free_target(step, axis, made, rows)
            return Rows(axis, made[axis] // batch)
    message = f"it turns {list(shape)} into {list(made)} across the rows"
    raise Coupled(message)


def _free_target(step: Step, axis: int, made: tuple[int, ...], rows: Rows) -> None:
    """Let the place of the batch in a constant target be whatever comes."""
    if len(step.node.input) < 2:
        message = "its shape is an attribute, as before opset 5"
        raise Untold(message)
    if isinstance(step.states[1], Counts):
        return
    target = step.constant(1).astype(np.int64)
    copied = [n for n, side in enumerate(target) if side == 0 and not step.attr("allowzero", 0)]  # from the input
    is_open = target[axis] == -1 or (axis in copied and axis == rows.axis)
    if is_open and all(n == axis or n != rows.axis for n in copied):
        return
    # Every other side is written out, so that the one of the batch can be the open one.
    opened = np.array([-1 if n == axis else side for n, side in enumerate(made)], np.int64)
    step.replace(1, opened, f"a batch of {step.graph.batch} was written into its shape {target.tolist()}")


def flatten(step: Step) -> State:
    rows, shape = step.rows, step.shape()
    axis = normal(step.attr("axis", 1), len(shape))
    if rows.axis == 0 and axis >= 1:
        return Rows(0, rows.each * prod(shape[1:axis]))
    message = f"it flattens {list(shape)} at {axis}, across the rows"
    raise Coupled(message)


def transpose(step: Step) -> State:
    order = step.attr("perm") or list(reversed(range(len(step.shape()))))
    return step.rows._replace(axis=list(order).index(step.rows.axis))


def squeeze(step: Step) -> State:
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
            step.graph.look_again()
    axes = [normal(axis, len(shape)) for axis in axes]
    if rows.axis in axes:
        message = "it drops the batch dimension"
        raise Baked(message)
    return rows._replace(axis=rows.axis - sum(axis < rows.axis for axis in axes))


def unsqueeze(step: Step) -> State:
    rows, rank = step.rows, len(step.shape())
    axes = sorted(normal(axis, rank + len(step.axes("axes", 1) or [])) for axis in step.axes("axes", 1) or [])
    at = rows.axis
    for axis in axes:
        at += axis <= at
    return rows._replace(axis=at)


def concat(step: Step) -> State:
    found = {at: state for at, state in enumerate(step.states) if isinstance(state, Rows)}
    if len(set(found.values())) != 1:
        message = "its inputs have their rows in different dimensions"
        raise Untold(message)
    like, rows = next(iter(found.items()))
    axis = normal(step.attr("axis"), len(step.shape(like)))
    if axis == rows.axis:
        message = "it joins along the batch: rows are put behind one another"
        raise Coupled(message)
    for at in range(len(step.states)):
        if at not in found:
            if rows.each != 1:
                message = "a constant is joined to rows that are folded with another dimension"
                raise Untold(message)
            step.freed(at, rows.axis, like)
    return rows


def split(step: Step) -> State:
    _apart(step, step.attr("axis", 0), "it splits the batch")
    return step.rows


def slice_(step: Step) -> State:
    rows, shape = step.rows, step.shape()
    starts, ends = (step.axes(name, at) or [] for name, at in (("starts", 1), ("ends", 2)))
    axes = step.axes("axes", 3) or list(range(len(starts)))
    steps = step.axes("steps", 4) or [1] * len(starts)
    for start, end, axis, by in zip(starts, ends, axes, steps, strict=True):
        if normal(axis, len(shape)) == rows.axis and not (start == 0 and by == 1 and end >= LARGE):
            if start == 0 and by == 1 and end >= shape[rows.axis] and not step.is_open:
                message = f"it cuts the batch at {end}"
                raise Baked(message)
            message = f"it takes places {start} to {end} of the batch"
            raise Coupled(message)
    return rows


def gather(step: Step) -> State:
    data, indices = step.states[0], step.states[1]
    axis = normal(step.attr("axis", 0), len(step.shape()))
    if isinstance(data, Rows) and isinstance(indices, Rows):
        message = "both what it picks from and what it picks by have rows"
        raise Untold(message)
    if isinstance(indices, Rows):  # a table, looked up
        return indices._replace(axis=axis + indices.axis)
    rows = step.rows
    if axis == rows.axis:
        message = "it picks rows out of the batch"
        raise Coupled(message)
    return rows._replace(axis=rows.axis + (len(step.shape(1)) - 1 if axis < rows.axis else 0))


def same_axis_picks(step: Step) -> State:
    """GatherElements, ScatterElements: element by element, along one axis."""
    _apart(step, step.attr("axis", 0), "it picks along the batch")
    if any(state != step.rows for state in step.states):
        message = "an input has no rows, or has them elsewhere"
        raise Untold(message)
    return step.rows


def expand(step: Step) -> State:
    rows, shape, made = step.rows, step.shape(), step.made()
    axis = rows.axis + len(made) - len(shape)
    if not isinstance(step.states[1], Counts):
        target = step.constant(1).astype(np.int64)
        at = axis - (len(made) - len(target))
        if at >= 0 and target[at] != 1:
            target[at] = 1
            step.replace(1, target, f"a batch of {step.graph.batch} was written into what it expands to")
    return rows._replace(axis=axis)


def tile(step: Step) -> State:
    if step.constant(1)[step.rows.axis] != 1:
        message = "it repeats the batch"
        raise Coupled(message)
    return step.rows


def pad(step: Step) -> State:
    rows, rank = step.rows, len(step.shape())
    pads = step.axes("pads", 1) or [0] * 2 * rank
    axes = [normal(axis, rank) for axis in (step.axes("axes", 3) or range(rank))]
    if rows.axis in axes:
        at = axes.index(rows.axis)
        if pads[at] or pads[at + len(axes)]:
            message = "it pads the batch"
            raise Coupled(message)
    return rows


def _apart(step: Step, axis: int, how: str) -> None:
    if normal(axis, len(step.shape())) == step.rows.axis:
        raise Coupled(how)


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
