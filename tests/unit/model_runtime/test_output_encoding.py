"""Outputs as JSON: each value as orjson writes it, cut into chunks, refused above the limit before all is written."""

import base64
import json
import math
from typing import Any

import numpy as np
import pytest

from jobs.contract.errors import Refused
from jobs.contract.tensors import Tensor, unpack_texts
from model_runtime.output_encoding import SLICE_BYTES, SLICE_VALUES, Base64, encode_output
from model_runtime.tensor_spec import DTYPES

MANY = 3 * SLICE_VALUES + 7


def decode(output: Any, chunk_bytes: int = 1 << 20) -> Any:
    return json.loads(b"".join(encode_output(output, 1 << 30, chunk_bytes)))


@pytest.mark.parametrize("count", [0, 1, SLICE_VALUES, MANY])
@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_numbers_come_back_exactly(datatype: str, count: int) -> None:
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        texts = [f"é {at}" for at in range(count)]
        values = np.array(texts, object)
        assert decode({"data": values}) == {"data": texts}
        raw = base64.b64decode(decode({"b64": Base64(values)})["b64"])
        assert unpack_texts("x", Tensor("BYTES", (count,), raw)) == texts
        return
    values = np.random.default_rng(1).integers(0, 256, count * dtype.itemsize, np.uint8).view(dtype)
    if datatype == "BOOL":
        values = np.arange(count) % 2 == 0
    values = np.where(np.isfinite(values), values, dtype.type(1)) if dtype.kind == "f" else values
    assert np.array_equal(np.array(decode({"data": values})["data"], dtype), values)
    raw = base64.b64decode(decode({"b64": Base64(values)})["b64"])
    assert raw == values.tobytes()


@pytest.mark.parametrize("count", [4, MANY])
def test_what_is_not_finite_is_null(count: int) -> None:
    values = np.ones(count, np.float32)
    values[[0, 2]], values[-1] = math.nan, math.inf
    shown = decode(values)
    assert [shown[0], shown[1], shown[2], shown[-1]] == [None, 1.0, None, None]


def test_arrays_of_any_layout_are_lists_in_their_order() -> None:
    square = np.arange(4 * SLICE_VALUES, dtype=np.float32).reshape(4, -1)
    assert decode({"a": square.T, "b": square[:, ::2], "c": square.astype(">f4")}) == {
        "a": square.T.tolist(),
        "b": square[:, ::2].tolist(),
        "c": square.tolist(),
    }


def test_large_outputs_of_custom_tasks_are_what_orjson_would_write() -> None:
    output = {
        "rows": [{"label": f"ä {n}", "box": [0.1, n], "none": None} for n in range(MANY)],
        "nested": [[1, 2], [], [3]] * SLICE_VALUES,
        "numbers": list(range(MANY)),
        "text": "x" * (SLICE_VALUES * 20),
        "empty": {},
        "pair": (np.float32(1.5), np.int64(2)),
    }
    assert decode(output) == {**output, "pair": [1.5, 2]}
    assert b"".join(encode_output(output, 1 << 30, 100_000)) == encode_output(output, 1 << 30, 1 << 30)[0]


def test_chunks_have_the_size_that_is_asked_for() -> None:
    *chunks, last = encode_output(Base64(np.zeros(10 * SLICE_BYTES, np.uint8)), 1 << 30, 100_000)
    assert {len(chunk) for chunk in chunks} == {100_000}
    assert 0 < len(last) <= 100_000
    assert encode_output({"a": 1}, 1 << 20, 7) == [b'{"a":1}']
    assert encode_output({"a": 12}, 1 << 20, 7) == [b'{"a":12', b"}"]


@pytest.mark.parametrize("output", [{"a": "x" * 100}, {"a": np.zeros(10**8, np.float32)}])
def test_above_the_limit_only_little_is_written(output: Any) -> None:
    with pytest.raises(Refused, match="more than 64 bytes") as refused:
        encode_output(output, 64, 1 << 20)
    assert (refused.value.code, refused.value.details) == ("output_too_large", {"limit": 64})


def test_what_is_no_json_is_a_type_error() -> None:
    for output in ({"a": object()}, {1: 2}, {"a": b"bytes"}, {"a": [object()] * MANY}):
        with pytest.raises(TypeError):
            encode_output(output, 1 << 20, 1 << 20)
