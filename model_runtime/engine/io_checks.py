"""What a model declares of its inputs and outputs, checked before a row of it is tried."""

from collections.abc import Sequence
from pathlib import Path

from model_runtime.repository.host_memory import row_bytes, shown, usable_bytes
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Port


def check_ports(path: Path, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Ports with the batch dimension still in their shapes; raises ModelError."""
    if not inputs:
        raise ModelError(path, None, "the model takes no inputs")
    for port in inputs:
        if port.shape and port.shape[0] not in {-1, 1}:
            reason = f"input {port.name!r} has the shape {list(port.shape)}: a batch of {port.shape[0]} is baked in"
            allowed = "export it with a dynamic first dimension, or with 1; `jitney models doctor` tells whether it can"
            raise ModelError(path, None, f"{reason}; allowed: {allowed} mend it")
    # Trying these would end the process: memory that is promised and not there is taken back by force.
    needed, usable = row_bytes([*inputs, *outputs]), usable_bytes()
    if needed > usable:
        largest = max([*inputs, *outputs], key=lambda port: row_bytes([port]))
        reason = f"{largest.name!r} is {largest.datatype} {list(largest.shape)}: one row takes {shown(needed)} at least"
        raise ModelError(path, None, f"{reason}; allowed here: {shown(usable)}")
