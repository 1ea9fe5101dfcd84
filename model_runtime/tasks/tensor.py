"""Task `tensor`: pass tensors to the model and return its tensors, after checks of names, types and shapes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.contract import tensors
from jobs.contract.errors import Refused
from model_runtime.output_encoding import Base64
from model_runtime.spec.model_toml import ModelSpec
from model_runtime.tasks.task import Task, read_encoding
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

_ENCODINGS: Final = ("json", "base64")


class TensorTask(Task):
    """`task = "tensor"`: kinds "tensors", and "raw" if the model takes one tensor of a fixed shape.

    Returns {"tensors": {name: {"datatype", "shape", "data"}}}, `data` flat and row-major; NaN and
    infinity are null, as JSON has neither. Parameter `encoding`: "json", or "base64" for `b64` in place of `data`: the
    exact values as little-endian bytes.
    """

    kinds = frozenset({"tensors"})
    offload = False
    returns_arrays = True

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        self._by_name = {tensor_spec.name: tensor_spec for tensor_spec in inputs}
        if len(inputs) == 1 and inputs[0].is_fixed:
            self.kinds = frozenset({"tensors", "raw"})
            self._raw_bytes = tensors.size_bytes(inputs[0].datatype, inputs[0].shape)

    def preprocess(self, kind: str, data: bytes, parameters: Mapping[str, Any]) -> dict[str, Array]:
        """Return views of `data` without copying. Raises Refused("invalid_input") with the expected type and shape."""
        read_encoding(parameters, _ENCODINGS)
        if kind == "raw":
            tensor_spec = self.inputs[0]
            if len(data) == self._raw_bytes:
                return {tensor_spec.name: np.ndarray(tensor_spec.shape, DTYPES[tensor_spec.datatype], data)}
            return {tensor_spec.name: _view(tensor_spec, tensors.Tensor(tensor_spec.datatype, tensor_spec.shape, data))}
        frame = tensors.unpack_tensors(data)
        if frame.keys() != self._by_name.keys():
            raise Refused("invalid_input", f"expected the tensors {sorted(self._by_name)}, got {sorted(frame)}")
        return {name: _view(tensor_spec, frame[name]) for name, tensor_spec in self._by_name.items()}

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tensors, their values as flat arrays that `encode_output` writes."""
        is_base64 = read_encoding(parameters, _ENCODINGS) == "base64"
        return {"tensors": {spec.name: _show(spec, outputs[spec.name], is_base64=is_base64) for spec in self.outputs}}


def _show(tensor_spec: TensorSpec, array: Array, *, is_base64: bool) -> dict[str, Any]:
    values = {"b64": Base64(array)} if is_base64 else {"data": array.ravel()}
    return {"datatype": tensor_spec.datatype, "shape": list(array.shape), **values}


def _view(tensor_spec: TensorSpec, tensor: tensors.Tensor) -> Array:
    expected = f"tensor {tensor_spec.name!r}: expected {tensor_spec.datatype} of shape {list(tensor_spec.shape)}"
    if tensor.datatype != tensor_spec.datatype or not tensor_spec.fits(tensor.shape):
        raise Refused("invalid_input", f"{expected}, got {tensor.datatype} of shape {list(tensor.shape)}")
    if any(not isinstance(side, int) or side < 0 for side in tensor.shape):
        raise Refused("invalid_input", f"{expected}, got an invalid shape: {list(tensor.shape)}")
    size = tensors.size_bytes(tensor_spec.datatype, tensor.shape)
    if len(tensor.data) != size:
        raise Refused("invalid_input", f"{expected}, {size} bytes; got {len(tensor.data)} bytes")
    return np.ndarray(tensor.shape, DTYPES[tensor_spec.datatype], tensor.data)
