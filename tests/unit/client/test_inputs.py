"""Inputs of jobs become JSON: files and bytes, tensors of arrays and lists, and outputs become arrays again."""

import io
import json
from array import array
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from jitney_client import to_arrays
from jitney_client.inputs import encode_input, encode_tensor, job_fields, to_json


@pytest.mark.parametrize("of", [bytes, bytearray, memoryview, io.BytesIO])
def test_bytes_and_open_files_become_base64(of: Any) -> None:
    assert encode_input({"image": of(b"\x89PNG")}) == {"image": b64encode(b"\x89PNG").decode()}


def test_paths_are_read_and_texts_are_not_taken_for_paths(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("é", "utf-8")
    assert encode_input({"audio": path, "text": path}) == {"audio": "w6k=", "text": "é"}
    assert encode_input({"image": str(path)}) == {"image": str(path)}
    with pytest.raises(FileNotFoundError):
        encode_input({"image": tmp_path / "none"})
    with pytest.raises(TypeError, match="an input is a dict such as"):
        encode_input(b"bytes")  # type: ignore[arg-type]


def test_the_options_of_a_job_are_those_of_the_api() -> None:
    fields = job_fields("m", {"text": "a"}, {"deadline_s": 1.5, "lane": "bulk", "parameters": {"top_k": np.int64(3)}})
    expected = {"model": "m", "input": {"text": "a"}, "lane": "bulk", "parameters": {"top_k": 3}, "deadline_ms": 1500}
    assert json.loads(to_json(fields)) == expected
    assert job_fields("", {"text": "a"}, {}) == {"input": {"text": "a"}}
    with pytest.raises(ValueError, match="JSON"):
        to_json({"row": [float("nan")]})
    with pytest.raises(TypeError, match="a value of type set has no form in JSON"):
        to_json({"row": {1}})


@pytest.mark.parametrize(
    ("kind", "datatype"),
    [
        *((name, name.upper()) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")),
        *((f"float{bits}", f"FP{bits}") for bits in (16, 32, 64)),
        ("bool", "BOOL"),
    ],
)
def test_arrays_are_sent_as_bytes_and_come_back(kind: str, datatype: str) -> None:
    values = np.arange(6).astype(kind).reshape(2, 3)
    for sent in (values, values.T.copy().T, values[::-1][::-1]):
        tensor = encode_tensor(sent)
        assert (tensor["datatype"], tensor["shape"]) == (datatype, [2, 3])
        back = to_arrays({"tensors": {"x": tensor}})["x"]
        assert back.dtype == values.dtype
        assert (back == values).all()
    listed = {"datatype": datatype, "shape": [2, 3], "data": values.ravel().tolist()}
    assert (to_arrays({"tensors": {"x": listed}})["x"] == values).all()


def test_arrays_of_other_kinds() -> None:
    big = encode_tensor(np.array([1, 2], ">i4"))
    assert b64decode(big["b64"]) == bytes([1, 0, 0, 0, 2, 0, 0, 0])
    halves = encode_tensor(np.array([1.5, -2], ml_dtypes.bfloat16))
    assert (halves["datatype"], to_arrays({"tensors": {"x": halves}})["x"].tolist()) == ("BF16", [1.5, -2])
    assert encode_tensor(np.array([["a", "é"]])) == {"datatype": "BYTES", "shape": [1, 2], "data": ["a", "é"]}
    assert encode_tensor(np.float32(1))["shape"] == []
    texts = {"datatype": "BYTES", "shape": [2], "b64": b64encode(b"\x01\0\0\0a\x02\0\0\0\xc3\xa9").decode()}
    assert to_arrays({"tensors": {"x": texts}})["x"].tolist() == ["a", "é"]
    missing = {"datatype": "FP32", "shape": [2], "data": [1, None]}
    assert np.isnan(to_arrays({"tensors": {"x": missing}})["x"]).tolist() == [False, True]
    with pytest.raises(TypeError, match="array of complex64"):
        encode_tensor(np.array([1j], "complex64"))


def test_buffers_and_lists_become_tensors() -> None:
    x = encode_tensor(array("f", [1, 2]))
    assert (x["datatype"], x["shape"], b64decode(x["b64"])) == ("FP32", [2], np.array([1, 2], np.float32).tobytes())
    assert encode_tensor(array("l", [1]))["datatype"] == f"INT{array('l').itemsize * 8}"
    assert encode_tensor([[1, 2], [3, 4]]) == {"datatype": "INT64", "shape": [2, 2], "data": [1, 2, 3, 4]}
    assert encode_tensor([1, 2.5])["datatype"] == "FP32"
    assert encode_tensor([True, False])["datatype"] == "BOOL"
    assert encode_tensor(["a", "b"])["datatype"] == "BYTES"
    assert encode_tensor(7) == {"datatype": "INT64", "shape": [], "data": [7]}
    assert encode_tensor({"datatype": "FP16", "shape": [1], "data": [1]})["datatype"] == "FP16"
    with pytest.raises(ValueError, match="equal lengths"):
        encode_tensor([[1], [2, 3]])
    with pytest.raises(TypeError, match="buffer of format 'c'"):
        encode_tensor(memoryview(b"ab").cast("c"))
