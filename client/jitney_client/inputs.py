"""Encodes jobs as JSON: files and bytes as base64, arrays and lists as tensors."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

Input = Mapping[str, Any]

_FILES: Final = frozenset({"image", "audio", "bytes"})
# Names of NumPy's types, which other libraries share.
_DATATYPES: Final = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign}INT{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bfloat16": "BF16",
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
_FORMATS: Final = {  # of a buffer, as in the module struct
    "?": "bool",
    **{code: f"int{bits}" for code, bits in zip("bhiq", (8, 16, 32, 64), strict=True)},
    **{code: f"uint{bits}" for code, bits in zip("BHIQ", (8, 16, 32, 64), strict=True)},
    "e": "float16",
    "f": "float32",
    "d": "float64",
}
_LONGS: Final = {"l": "int", "L": "uint"}  # 32 or 64 bits


class JobOptions(TypedDict, total=False):
    """What a job may have beside its model and input. What is left out has the service's default."""

    parameters: Mapping[str, Any]  # of the model's task, such as top_k
    lane: Literal["interactive", "bulk"]
    deadline_s: float  # the job expires if it is not done by then
    metadata: Mapping[str, str]  # given back as it is
    webhook: str | Mapping[str, Any]  # a URL, or a dict of url, events and headers
    rows: int  # the first dimension of all tensors


def job_fields(model: str, job_input: Input, options: JobOptions) -> dict[str, Any]:
    """Return the fields of a job. Raises OSError for a file that cannot be read, TypeError for other inputs."""
    fields: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if (deadline_s := fields.pop("deadline_s", None)) is not None:
        fields["deadline_ms"] = max(1, round(deadline_s * 1000))
    return {**({"model": model} if model else {}), "input": encode_input(job_input), **fields}


def to_json(value: Any) -> bytes:
    """Return a value as JSON without NaN. Arrays become lists."""
    return json.dumps(value, default=_to_list, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def encode_input(job_input: Input) -> dict[str, Any]:
    """Return the field `input` of a job: files are read, arrays become tensors."""
    if not isinstance(job_input, Mapping):
        message = f'an input is a dict such as {{"image": Path("cat.jpg")}}, not {type(job_input).__name__}'
        raise TypeError(message)
    return {name: _encode_field(name, value) for name, value in job_input.items()}


def _encode_field(name: str, value: Any) -> Any:
    if name == "tensors" and isinstance(value, Mapping):
        return {tensor: encode_tensor(values) for tensor, values in value.items()}
    if name in _FILES:
        if hasattr(value, "read"):
            value = value.read()
        data = value.read_bytes() if isinstance(value, Path) else value
        # A text is base64 or a data: URL already. It is never a path: it may come from a stranger.
        return data if isinstance(data, str) else b64encode(memoryview(data).cast("B")).decode()
    return value.read_text("utf-8") if isinstance(value, Path) else value


def encode_tensor(values: Any) -> Mapping[str, Any]:
    """Return a tensor as the API takes it.

    `values`: an array with `dtype` and `shape` (NumPy and others); an object with a buffer of numbers, such as
    `array.array`; a number or nested lists of numbers, texts or booleans; or a dict of `datatype`, `shape` and `data`
    or `b64`. Floats in lists are FP32, and integers INT64. For other types use arrays or dicts.
    """
    if isinstance(values, Mapping):
        return values
    dtype = getattr(values, "dtype", None)
    if dtype is not None and hasattr(values, "tobytes"):
        return _encode_array(values, dtype)
    if not isinstance(values, list | tuple | str | bytes):
        try:
            view = memoryview(values)
        except TypeError:
            pass
        else:
            name = _LONGS[view.format] + str(view.itemsize * 8) if view.format in _LONGS else _FORMATS.get(view.format)
            if name is None:
                raise TypeError(f"a tensor cannot be made of a buffer of format {view.format!r}")
            return _with_bytes(name, view.shape or (), view.tobytes())
    shape, flat = _flatten(values)
    return {"datatype": _datatype_of(flat), "shape": shape, "data": flat}


def _encode_array(array: Any, dtype: Any) -> dict[str, Any]:
    name = getattr(dtype, "name", str(dtype))
    if getattr(dtype, "kind", "") in {"U", "S", "O", "T"}:
        texts = [each.decode() if isinstance(each, bytes) else str(each) for each in array.ravel().tolist()]
        return {"datatype": "BYTES", "shape": list(array.shape), "data": texts}
    if name not in _DATATYPES:
        raise TypeError(f"a tensor cannot be made of an array of {name}")
    if getattr(dtype, "byteorder", "=") == ">":
        array = array.astype(dtype.newbyteorder("<"))
    return _with_bytes(name, array.shape, array.tobytes())


def _with_bytes(name: str, shape: Sequence[int], data: bytes) -> dict[str, Any]:
    return {"datatype": _DATATYPES[name], "shape": list(shape), "b64": b64encode(data).decode()}


def _flatten(values: Any) -> tuple[list[int], list[Any]]:
    """Return the shape of nested lists and their values, row by row. Raises ValueError for lists of other lengths."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, list | tuple):
        return [], [values]
    parts = [_flatten(part) for part in values]
    if any(part[0] != parts[0][0] for part in parts):
        raise ValueError("the lists of a tensor must have equal lengths")
    return [len(values), *(parts[0][0] if parts else [])], [value for _, flat in parts for value in flat]


def _datatype_of(flat: list[Any]) -> str:
    for kind, datatype in ((bool, "BOOL"), (str, "BYTES"), (int, "INT64")):
        if flat and all(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) for value in flat):
            return datatype
    return "FP32"


def _to_list(value: Any) -> Any:
    """Return the lists or the number of an array, for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")
