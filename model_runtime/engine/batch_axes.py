"""Find the batch axis of each tensor, move rows to it and back in each run, and add constants, masks and lengths.

The axis is what `model.toml` says, or else what the declared dimensions suggest. Callers stack items along
a first dimension. Here that dimension is moved to where a model has its batch, and back.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from batching.padding import FilledInput, PaddedInput, Padding
from model_runtime.spec.model_toml import ModelError
from model_runtime.spec.tensors import InputSpec, OutputSpec, TensorKeys
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

# tensor name → the names of its dimensions, "" for a dimension without a name
DimNames = Mapping[str, Sequence[str]]
Axes = Mapping[str, int | None]  # tensor name → its batch axis; None: no batch dimension


class BatchAxes(NamedTuple):
    """The batch axes of the inputs that items have, and of the outputs that are answered.

    `constants`: the values and batch axes of inputs that items do not have. `written`: tensors whose axis is in
    `model.toml`. `padding`: what `model.toml` says of items of different lengths, None if it says nothing.
    """

    inputs: Axes
    outputs: Axes
    constants: Mapping[str, tuple[Array, int | None]] = {}
    written: frozenset[str] = frozenset()
    padding: Padding | None = None

    def arrange_inputs(self, arrays: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """Return what the runtime takes for rows stacked along the first dimension.

        Adds masks and lengths if the caller has not: then all values are content.
        """
        feed = {name: _from_first(array, self.inputs[name]) for name, array in arrays.items() if name in self.inputs}
        if self.padding is not None:
            name, padded = next(iter(self.padding.inputs.items()))
            length = arrays[name].shape[1 + padded.axis]
            for name, filled in self.padding.filled.items():
                feed[name] = arrays[name] if name in arrays else filled.make([length] * rows, length)
        for name, (value, axis) in self.constants.items():
            feed[name] = value if axis is None else np.repeat(value, rows, axis)
        # Views of a frame may be unaligned, which the runtime does not support officially.
        for name, array in feed.items():
            if not (array.flags.c_contiguous and array.flags.aligned):
                feed[name] = np.require(array, requirements=("C", "A"))
        return feed

    def arrange_outputs(self, results: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """Return results with rows along the first dimension. What one row gave is its own, whatever its shape."""
        return {name: _to_first(results[name], axis, rows) for name, axis in self.outputs.items()}

    def row_specs(self, tensor_specs: Sequence[TensorSpec], axes: Axes) -> list[TensorSpec]:
        """Return the specs of one row of the tensors in `axes`, in the order of `axes`."""
        declared = {tensor_spec.name: tensor_spec for tensor_spec in tensor_specs}
        return [declared[name]._replace(shape=without(declared[name].shape, axis)) for name, axis in axes.items()]


def resolve_axes(
    keys: TensorKeys, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], names: DimNames
) -> BatchAxes:
    """Return the written axes, and defaults for the rest. Raises ModelError for keys that do not fit the model."""
    in_axes = {tensor_spec.name: _axis(keys, "inputs", keys.inputs, tensor_spec, names) for tensor_spec in inputs}
    out_axes = {tensor_spec.name: _axis(keys, "outputs", keys.outputs, tensor_spec, names) for tensor_spec in outputs}
    others = names.keys() - in_axes.keys()
    for table, written, known in (("inputs", keys.inputs, in_axes), ("outputs", keys.outputs, others)):
        for name in written:
            if name not in known:
                reason = f"the model has no such tensor; allowed: {', '.join(sorted(known))}"
                raise ModelError(keys.file, f"{table}.{name}", reason)
    for name, key in keys.inputs.items():
        given = [each for each in ("value", "pad_axis", "fill") if getattr(key, each) is not None]
        if len(given) > 1:
            raise ModelError(keys.file, f"inputs.{name}", f"has {' and '.join(given)}; allowed: one of them")
    constants = {
        tensor_spec.name: _constant(keys, tensor_spec, in_axes[tensor_spec.name].axis)
        for tensor_spec in inputs
        if tensor_spec.name in keys.inputs and keys.inputs[tensor_spec.name].value is not None
    }
    padding = _declared_padding(
        keys,
        inputs,
        outputs,
        {name: found.axis for name, found in in_axes.items()},
        {name: found.axis for name, found in out_axes.items()},
    )
    filled = padding.filled if padding else {}
    if len(constants) + len(filled) == len(inputs) > 0:
        raise ModelError(keys.file, "inputs", "every input has a value; allowed: at least one input that jobs send")
    if not outputs:
        raise ModelError(keys.file, "outputs", "no output is answered; allowed: at least one")
    return BatchAxes(
        {name: found.axis for name, found in in_axes.items() if name not in constants and name not in filled},
        {name: out_axes[name].axis for name in keys.answered(list(out_axes))},
        constants,
        frozenset(name for name, found in (*in_axes.items(), *out_axes.items()) if found.is_written),
        padding,
    )


def _declared_padding(
    keys: TensorKeys, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], in_axes: Axes, out_axes: Axes
) -> Padding | None:
    """Return the padding that the keys describe, None without a `pad_axis`. Raises ModelError."""
    padded = {
        each.name: PaddedInput(_row_axis(keys, "inputs", each, own.pad_axis, in_axes), _pad_value(keys, each, own))
        for each in inputs
        if (own := keys.inputs.get(each.name)) is not None and own.pad_axis is not None
    }
    cut = {
        each.name: _row_axis(keys, "outputs", each, asked.pad_axis, out_axes)
        for each in outputs
        if (asked := keys.outputs.get(each.name)) is not None and asked.pad_axis is not None
    }
    filled = {
        each.name: _filled(keys, each, in_axes[each.name])
        for each in inputs
        if each.name in keys.inputs and keys.inputs[each.name].fill is not None
    }
    if padded:
        return Padding(padded, cut, filled)
    if cut or filled:
        table, name = ("outputs", next(iter(cut))) if cut else ("inputs", next(iter(filled)))
        raise ModelError(keys.file, f"{table}.{name}", "no input has a pad_axis: set pad_axis under [inputs.NAME]")
    return None


def _pad_value(keys: TensorKeys, spec: TensorSpec, written: InputSpec) -> Any:
    """Return what padding is filled with, in the input's type: empty texts in texts. Raises ModelError."""
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "O":
        return ""
    with np.errstate(all="ignore"):
        value = np.float64(written.pad_value).astype(dtype)
    if dtype.kind != "f" and value != written.pad_value:
        key = f"inputs.{spec.name}.pad_value"
        raise ModelError(
            keys.file, key, f"{written.pad_value:g} is not a number of {spec.datatype}; allowed: one of them"
        )
    return value


def _row_axis(keys: TensorKeys, table: str, spec: TensorSpec, axis: int, axes: Axes) -> int:
    """Return the dimension of a row for a dimension of the model's tensor."""
    batch, free = axes[spec.name], [at for at, side in enumerate(spec.shape) if side == -1 and at != axes[spec.name]]
    if axis not in free:
        key = f"{table}.{spec.name}.pad_axis"
        allowed = " or ".join(map(str, free)) or "no axis, as it has no other free dimension"
        raise ModelError(keys.file, key, f"{axis}, but the shape is {list(spec.shape)}; allowed: {allowed}")
    return axis - (batch is not None and batch < axis)


def _filled(keys: TensorKeys, spec: TensorSpec, axis: int | None) -> FilledInput:
    fill, shape = keys.inputs[spec.name].fill, without(spec.shape, axis)
    if fill == "mask" and axis == 0 and shape == (-1,):
        return FilledInput("mask", DTYPES[spec.datatype])
    if fill == "length" and axis == 0 and shape in {(), (1,)}:
        return FilledInput("length", DTYPES[spec.datatype], shape)
    allowed = "[batch, length]" if fill == "mask" else "[batch] or [batch, 1]"
    raise ModelError(
        keys.file, f"inputs.{spec.name}.fill", f'"{fill}", but its shape is {list(spec.shape)}; allowed: {allowed}'
    )


class _Axis(NamedTuple):
    axis: int | None
    is_written: bool


def _axis(
    keys: TensorKeys,
    table: str,
    written: Mapping[str, InputSpec | OutputSpec],
    tensor_spec: TensorSpec,
    names: DimNames,
) -> _Axis:
    """Return the batch axis of a tensor. The axis for the whole model holds for tensors that have it."""
    axis, rank = keys.axis_of(tensor_spec.name, written), len(tensor_spec.shape)
    if axis == "none":
        return _Axis(None, is_written=True)
    if axis is not None and axis < rank:
        return _Axis(axis, is_written=True)
    if axis is not None and tensor_spec.name in written and written[tensor_spec.name].batch_axis is not None:
        allowed = f'0 to {rank - 1}, or "none"' if rank else '"none"'
        reason = f"{axis}, but its shape is {list(tensor_spec.shape)}; allowed: {allowed}"
        raise ModelError(keys.file, f"{table}.{tensor_spec.name}.batch_axis", reason)
    return _Axis(_default_axis(tensor_spec, names.get(tensor_spec.name, ())), is_written=False)


def is_batch_name(name: str) -> bool:
    """Return true for a dimension's name such as batch, batch_size, N or None."""
    lower = name.lower()
    return "batch" in lower or lower in {"n", "b", "bs", "none"}


def without(shape: Sequence[int], axis: int | None) -> tuple[int, ...]:
    """Return the shape without one dimension."""
    return tuple(side for at, side in enumerate(shape) if at != axis)


def _default_axis(tensor_spec: TensorSpec, names: Sequence[str]) -> int | None:
    """Return the first dimension, unless another one is named like a batch; None for a scalar."""
    if not tensor_spec.shape:
        return None
    if names and not is_batch_name(names[0]):
        return next((axis for axis, name in enumerate(names) if "batch" in name.lower()), 0)
    return 0


def _constant(keys: TensorKeys, tensor_spec: TensorSpec, axis: int | None) -> tuple[Array, int | None]:
    """Return the written value as one row, and the axis to repeat it along. Raises ModelError."""
    value, dtype = keys.inputs[tensor_spec.name].value, DTYPES[tensor_spec.datatype]
    if axis is not None and tensor_spec.shape[axis] != -1:
        axis = None
    shape = without(tensor_spec.shape, axis)
    kind = {"b": "true or false", "f": "numbers", "O": "texts"}.get(dtype.kind, "whole numbers")
    allowed = f"allowed: {kind} of {tensor_spec.datatype}, one for all or lists of the shape {list(shape)}"
    types: set[type] = {"b": {bool}, "f": {int, float}, "O": {str}}.get(dtype.kind, {int})  # type: ignore[assignment]
    try:
        row = np.asarray(value, dtype) if {*map(type, _flatten(value))} <= types else None
    except (ValueError, OverflowError):  # ragged lists, or a number out of range
        row = None
    if row is None:
        key = f"inputs.{tensor_spec.name}.value"
        raise ModelError(keys.file, key, f"{str(value)[:60]} is not allowed; {allowed}")
    if row.ndim == 0 and -1 not in shape:
        row = np.full(shape, row, dtype)
    if not TensorSpec("", "", shape).fits(row.shape):
        raise ModelError(keys.file, f"inputs.{tensor_spec.name}.value", f"has the shape {list(row.shape)}; {allowed}")
    return (row, None) if axis is None else (np.expand_dims(row, axis), axis)


def _flatten(value: Any) -> list[Any]:
    return [number for part in value for number in _flatten(part)] if isinstance(value, list) else [value]


def _from_first(array: Array, axis: int | None) -> Array:
    return np.asarray(array[0]) if axis is None else np.moveaxis(array, 0, axis) if axis else array


def _to_first(value: Array, axis: int | None, rows: int) -> Array:
    if axis is None or value.ndim <= axis or (rows == 1 and value.shape[axis] != 1):
        return value[np.newaxis]
    return np.moveaxis(value, axis, 0) if axis else value
