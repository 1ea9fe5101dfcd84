"""What a model declares of its inputs and outputs, checked before a row of it is tried."""

from collections.abc import Sequence
from pathlib import Path

from model_runtime.repository.host_memory import format_bytes, row_bytes, usable_bytes
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import TensorSpec


def check_tensor_specs(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Ports with the batch dimension still in their shapes; raises ModelError."""
    if not inputs:
        raise ModelError(path, None, "the model takes no inputs")
    for tensor_spec in inputs:
        if tensor_spec.shape and tensor_spec.shape[0] not in {-1, 1}:
            name, shape = tensor_spec.name, list(tensor_spec.shape)
            reason = f"input {name!r} has the shape {shape}: the batch size is fixed to {shape[0]}"
            allowed = "export it with a dynamic first dimension, or with 1; `jitney models doctor` tells whether it can"
            raise ModelError(path, None, f"{reason}; allowed: {allowed} mend it")
    # Trying these would end the process: memory that is promised and not there is taken back by force.
    needed, usable = row_bytes([*inputs, *outputs]), usable_bytes()
    if needed > usable:
        largest = max([*inputs, *outputs], key=lambda tensor_spec: row_bytes([tensor_spec]))
        tensor = f"{largest.name!r} is {largest.datatype} {list(largest.shape)}"
        reason = f"{tensor}: one row takes at least {format_bytes(needed)}"
        raise ModelError(path, None, f"{reason}; allowed here: {format_bytes(usable)}")
