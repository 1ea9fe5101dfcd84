"""Refuse a model before it runs: no inputs, a fixed batch size, or a row that needs more than the usable memory."""

from collections.abc import Sequence
from pathlib import Path

from model_runtime.engine.batch_axes import BatchAxes
from model_runtime.repository.host_memory import format_bytes, row_bytes, usable_bytes
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import TensorSpec


def check_tensor_specs(
    path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], axes: BatchAxes
) -> None:
    """Check tensor specs that include the batch dimension. Raises ModelError."""
    if not inputs:
        raise ModelError(path, None, "the model takes no inputs")
    for tensor_spec in inputs:
        axis = axes.inputs.get(tensor_spec.name)
        if axis is not None and tensor_spec.shape[axis] not in {-1, 1}:
            name, shape = tensor_spec.name, list(tensor_spec.shape)
            reason = f"input {name!r} has the shape {shape}: the batch size is fixed to {shape[axis]}"
            allowed = (
                "a dynamic first dimension, or 1; `jitney models doctor` may repair it; if the batch is elsewhere, "
                f'[inputs.{name}] batch_axis = … in model.toml, and if there is none, batch_axis = "none"'
            )
            raise ModelError(path, None, f"{reason}; allowed: {allowed}")
    # Running these would end the process: the kernel kills it when overcommitted memory runs out.
    needed, usable = row_bytes([*inputs, *outputs]), usable_bytes()
    if needed > usable:
        largest = max([*inputs, *outputs], key=lambda tensor_spec: row_bytes([tensor_spec]))
        tensor = f"{largest.name!r} is {largest.datatype} {list(largest.shape)}"
        reason = f"{tensor}: one row needs at least {format_bytes(needed)}"
        raise ModelError(path, None, f"{reason}; allowed here: {format_bytes(usable)}")
