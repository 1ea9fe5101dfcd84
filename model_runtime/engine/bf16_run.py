"""Run models with inputs or outputs of BF16, which ONNX Runtime does not exchange as numpy arrays."""

import ctypes
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from model_runtime.bfloat16 import from_bf16, to_bf16
from model_runtime.engine.onnx_runtime import VERSION, missing_operator, onnxruntime
from model_runtime.repository.onnx_file import has_bf16
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array

_TYPE: Final = "tensor(bfloat16)"
_ONNX_TYPE: Final = 16  # TensorProto.BFLOAT16


class Bf16Run:
    """Runs a session by values of ONNX Runtime's own. Arrays of BF16 are float32."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._inputs = {node.name for node in session.get_inputs() if node.type == _TYPE}

    @classmethod
    def of(cls, path: Path, session: Any) -> "Bf16Run | None":
        """Return what runs the session, None if it has no inputs and outputs of BF16. Raises ModelError."""
        nodes = [*session.get_inputs(), *session.get_outputs()]
        if all(node.type != _TYPE for node in nodes):
            return None
        for node in nodes:
            if not node.type.startswith("tensor(") or node.type == "tensor(string)":
                reason = f"{node.name!r} is a {node.type}, beside inputs or outputs of BF16"
                raise ModelError(path, None, f"{reason}; allowed beside them: tensors of numbers")
        return cls(session)

    def run(self, outputs: Sequence[str], feed: Mapping[str, Array], options: Any) -> dict[str, Array]:
        """Return the outputs. Raises what the runtime raises."""
        values = {name: self._to_value(name, array) for name, array in feed.items()}
        results = self._session.run_with_ort_values(list(outputs), values, options)
        return {name: _to_array(value) for name, value in zip(outputs, results, strict=True)}

    def _to_value(self, name: str, array: Array) -> Any:
        if name in self._inputs:
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(to_bf16(array), _ONNX_TYPE)
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.require(array, requirements="C"))


def missing_bf16_operator(path: Path, error: Exception) -> str:
    """Return why a session could not be opened, if an operator is missing in a model that computes in BF16; else ""."""
    if not (operator := missing_operator(error)) or not has_bf16(path):
        return ""
    reason = f"the model computes in BF16, and ONNX Runtime {VERSION} has no {operator} for it on this device"
    return f"{reason}; allowed: an export in FP32 or FP16, or a GPU"


def _to_array(value: Any) -> Array:
    """Return a copy of an output, which lies in the memory of the CPU."""
    if value.data_type() != _TYPE:
        array: Array = np.require(value.numpy(), requirements="O")
        return array
    shape = value.shape()
    if not (count := prod(shape)):
        return np.zeros(shape, np.float32)
    bits = np.ctypeslib.as_array((ctypes.c_uint16 * count).from_address(value.data_ptr()))
    return from_bf16(bits.reshape(shape))
