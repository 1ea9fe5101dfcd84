"""Task `tensor`: pass tensors to the model and return its tensors, after checks of names, types and shapes."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import add
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from batching.collation import group_of
from jobs.contract import tensors
from jobs.contract.errors import Refused
from model_runtime.bfloat16 import BF16, from_bf16, to_bf16
from model_runtime.output_encoding import Base64, encode_base64_rows, encode_rows
from model_runtime.spec.model_toml import ModelSpec
from model_runtime.tasks.task import PreparedRow, Task, read_encoding
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

_ENCODINGS: Final = ("json", "base64")
MAX_ROW_VALUES: Final = 1024  # of rows that are encoded together: with more values it saves little


class TensorTask(Task):
    """`task = "tensor"`: kinds "tensors", and "raw" if the model takes one tensor of a fixed shape.

    Returns {"tensors": {name: {"datatype", "shape", "data"}}}, `data` flat and row-major; NaN and
    infinity are null, as JSON has neither. Parameter `encoding`: "json", or "base64" for `b64` in place of `data`: the
    exact values as little-endian bytes.
    """

    kinds = frozenset({"tensors"})
    offload = False
    takes_rows = stacks_rows = True
    returns_arrays = True

    def __init__(
        self, spec: ModelSpec, folder: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        super().__init__(spec, folder, inputs, outputs)
        self._by_name = {tensor_spec.name: tensor_spec for tensor_spec in inputs}
        if all(tensor_spec.is_fixed for tensor_spec in inputs):
            self.row_group = group_of(
                {name: np.empty(s.shape, DTYPES[s.datatype]) for name, s in self._by_name.items()}
            )
        if len(inputs) == 1 and inputs[0].is_fixed and inputs[0].datatype != tensors.TEXTS:
            self.kinds = frozenset({"tensors", "raw"})
            self._raw_bytes = tensors.size_bytes(inputs[0].datatype, inputs[0].shape)

    def preprocess(self, kind: str, data: bytes, parameters: Mapping[str, Any]) -> dict[str, Array]:
        """Return views of `data`, of BF16 copies. Raises Refused("invalid_input") with the expected type and shape."""
        if parameters:
            read_encoding(parameters, _ENCODINGS)
        if kind == "raw":
            tensor_spec = self.inputs[0]
            if len(data) == self._raw_bytes:
                return {tensor_spec.name: _to_array(tensor_spec.datatype, tensor_spec.shape, data)}
            return {tensor_spec.name: _view(tensor_spec, tensors.Tensor(tensor_spec.datatype, tensor_spec.shape, data))}
        frame = tensors.unpack_tensors(data)
        if frame.keys() != self._by_name.keys():
            raise Refused("invalid_input", f"expected the tensors {sorted(self._by_name)}, got {sorted(frame)}")
        return {name: _view(tensor_spec, frame[name]) for name, tensor_spec in self._by_name.items()}

    def preprocess_rows(self, kind: str, data: bytes, parameters: dict[str, Any], rows: int) -> list[PreparedRow]:
        """Return the views of each row of `data`, whose tensors have the rows as their first dimension."""
        arrays = self.preprocess_stacked(kind, data, parameters, rows)
        return [({name: array[row, ...] for name, array in arrays.items()}, parameters) for row in range(rows)]

    def preprocess_stacked(self, kind: str, data: bytes, parameters: dict[str, Any], rows: int) -> dict[str, Array]:
        """Return the views of `data`, whose tensors have the rows as their first dimension."""
        if parameters:
            read_encoding(parameters, _ENCODINGS)
        if kind == "raw":
            spec = self.inputs[0]
            if len(data) == rows * self._raw_bytes:
                return {spec.name: _to_array(spec.datatype, (rows, *spec.shape), data)}
            frame = {spec.name: tensors.Tensor(spec.datatype, (rows, *spec.shape), data)}
        else:
            frame = tensors.unpack_tensors(data)
        if frame.keys() != self._by_name.keys():
            raise Refused("invalid_input", f"expected the tensors {sorted(self._by_name)}, got {sorted(frame)}")
        return {
            name: _view(spec._replace(shape=(rows, *spec.shape)), frame[name]) for name, spec in self._by_name.items()
        }

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tensors, their values as flat arrays that `encode_output` writes."""
        is_base64 = read_encoding(parameters, _ENCODINGS) == "base64"
        return {"tensors": {spec.name: _show(spec, outputs[spec.name], is_base64=is_base64) for spec in self.outputs}}

    def encode_batch(self, outputs: Mapping[str, Array], parameters: Sequence[Mapping[str, Any]]) -> list[bytes] | None:
        """Return the JSON of each row of a batch; None if the rows are large."""
        arrays = [outputs[spec.name] for spec in self.outputs]
        if sum(array[0, ...].size for array in arrays) > MAX_ROW_VALUES:
            return None
        if not any(parameters):
            return self._encode_rows(arrays, is_base64=False)
        is_base64 = [read_encoding(each, _ENCODINGS) == "base64" for each in parameters]
        if all(is_base64):
            return self._encode_rows(arrays, is_base64=True)
        both = zip(*(self._encode_rows(arrays, is_base64=form) for form in (False, True)), strict=True)
        return [texts[form] for texts, form in zip(both, is_base64, strict=True)]

    def _encode_rows(self, arrays: Sequence[Array], *, is_base64: bool) -> list[bytes]:
        """Return the JSON of each row of small outputs, in their order."""
        heads = [
            _head(spec.name, spec.datatype, array.shape[1:], "b64" if is_base64 else "data")
            for spec, array in zip(self.outputs, arrays, strict=True)
        ]
        end = b'"}' if is_base64 else b"]}"
        if is_base64:
            texts = [encode_base64_rows(_exact(spec, array)) for spec, array in zip(self.outputs, arrays, strict=True)]
        else:
            texts = [*map(encode_rows, arrays)]
        if len(arrays) == 1:
            head, tail = b'{"tensors":{' + heads[0], end + b"}}"
            return [b"%b%b%b" % (head, text, tail) for text in texts[0]]
        shown = ((end + b",").join(map(add, heads, row)) for row in zip(*texts, strict=True))
        return [b'{"tensors":{%b%b}}' % (tensors, end) for tensors in shown]


@lru_cache
def _head(name: str, datatype: str, shape: tuple[int, ...], field: str) -> bytes:
    """Return the JSON of one row of an output, up to its values, which are in `field`."""
    tensor = {"datatype": datatype, "shape": shape, field: () if field == "data" else ""}
    return orjson.dumps(name) + b":" + orjson.dumps(tensor)[:-2]


def _exact(tensor_spec: TensorSpec, array: Array) -> Array:
    """Return the array whose bytes are the values of an output."""
    return to_bf16(array) if tensor_spec.datatype == BF16 else array


def _show(tensor_spec: TensorSpec, array: Array, *, is_base64: bool) -> dict[str, Any]:
    values = {"b64": Base64(_exact(tensor_spec, array))} if is_base64 else {"data": array.ravel()}
    return {"datatype": tensor_spec.datatype, "shape": list(array.shape), **values}


def _view(tensor_spec: TensorSpec, tensor: tensors.Tensor) -> Array:
    expected = f"tensor {tensor_spec.name!r}: expected {tensor_spec.datatype} of shape {list(tensor_spec.shape)}"
    if tensor.datatype != tensor_spec.datatype or not tensor_spec.fits(tensor.shape):
        raise Refused("invalid_input", f"{expected}, got {tensor.datatype} of shape {list(tensor.shape)}")
    if any(not isinstance(side, int) or side < 0 for side in tensor.shape):
        raise Refused("invalid_input", f"{expected}, got an invalid shape: {list(tensor.shape)}")
    if tensor.datatype == tensors.TEXTS:
        return np.array(tensors.unpack_texts(tensor_spec.name, tensor), object).reshape(tensor.shape)
    size = tensors.size_bytes(tensor_spec.datatype, tensor.shape)
    if len(tensor.data) != size:
        raise Refused("invalid_input", f"{expected}, {size} bytes; got {len(tensor.data)} bytes")
    return _to_array(tensor.datatype, tensor.shape, tensor.data)


def _to_array(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """Return a view of the values, or of BF16 a copy as float32."""
    return from_bf16(np.ndarray(shape, "<u2", data)) if datatype == BF16 else np.ndarray(shape, DTYPES[datatype], data)
