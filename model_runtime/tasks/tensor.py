"""Tensors in, tensors out, as they are: checks names, types and shapes against the model, and reads no value."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.contract import tensors
from jobs.contract.errors import Refused
from model_runtime.spec.model_toml import ModelSpec
from model_runtime.tasks.task import Task, refuse_unknown
from model_runtime.tensor_spec import DTYPES, Array, Port


class TensorTask(Task):
    """`task = "tensor"`: kinds "tensors", and "raw" where the model takes one tensor of a fixed shape.

    Answers {"tensors": {name: {"datatype", "shape", "data"}}}, `data` flat and row-major; JSON has no NaN or infinity,
    so such values are null there.
    """

    kinds = frozenset({"tensors"})
    offload = False

    def __init__(self, spec: ModelSpec, folder: Path, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        super().__init__(spec, folder, inputs, outputs)
        self._by_name = {port.name: port for port in inputs}
        if len(inputs) == 1 and inputs[0].is_fixed:
            self.kinds = frozenset({"tensors", "raw"})
            self._raw_bytes = tensors.size_bytes(inputs[0].datatype, inputs[0].shape)

    def prepare(self, kind: str, data: bytes, parameters: Mapping[str, Any]) -> dict[str, Array]:
        """Views on `data`, nothing copied; raises Refused("invalid_input") naming what is expected and what came."""
        refuse_unknown(parameters, ())
        if kind == "raw":
            port = self.inputs[0]
            if len(data) == self._raw_bytes:
                return {port.name: np.ndarray(port.shape, DTYPES[port.datatype], data)}
            return {port.name: _view(port, tensors.Tensor(port.datatype, port.shape, data))}
        frame = tensors.unpack(data)
        if frame.keys() != self._by_name.keys():
            raise Refused("invalid_input", f"expected the tensors {sorted(self._by_name)}, got {sorted(frame)}")
        return {name: _view(port, frame[name]) for name, port in self._by_name.items()}

    def present(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - it has none
        return {
            "tensors": {
                port.name: {
                    "datatype": port.datatype,
                    "shape": list(outputs[port.name].shape),
                    "data": _values(outputs[port.name]),
                }
                for port in self.outputs
            }
        }


def _view(port: Port, tensor: tensors.Tensor) -> Array:
    expected = f"tensor {port.name!r}: expected {port.datatype} of shape {list(port.shape)}"
    if tensor.datatype != port.datatype or not port.fits(tensor.shape):
        raise Refused("invalid_input", f"{expected}, got {tensor.datatype} of shape {list(tensor.shape)}")
    if any(not isinstance(side, int) or side < 0 for side in tensor.shape):
        raise Refused("invalid_input", f"{expected}, got a shape that is none: {list(tensor.shape)}")
    size = tensors.size_bytes(port.datatype, tensor.shape)
    if len(tensor.data) != size:
        raise Refused("invalid_input", f"{expected}, {size} bytes; got {len(tensor.data)} bytes")
    return np.ndarray(tensor.shape, DTYPES[port.datatype], tensor.data)


def _values(array: Array) -> list[Any]:
    flat = array.ravel()
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return [value if finite else None for value, finite in zip(flat.tolist(), np.isfinite(flat), strict=True)]
    values: list[Any] = flat.tolist()
    return values
