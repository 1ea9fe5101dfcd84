"""JSON values of tensors have the type of their datatype and the order of their shape."""

import base64
import math
import struct
from typing import Any

import pytest

from jobs.contract.errors import Refused
from jobs.contract.tensors import (
    BF16,
    DATATYPES,
    FLOATS,
    Tensor,
    from_numbers,
    pack_tensors,
    read_tensor_header,
    read_tensor_values,
    to_numbers,
    unpack_tensors,
    unpack_texts,
)

INTEGERS = [name for name in DATATYPES if "INT" in name]


def read(datatype: Any, shape: Any, **values: Any) -> Tensor:
    given = {"datatype": datatype, "shape": shape, **values}
    return read_tensor_values("x", *read_tensor_header("x", given), given)


def refusal(datatype: Any, shape: Any, **values: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        read(datatype, shape, **values)
    assert len(refused.value.message) < 300
    return refused.value


@pytest.mark.parametrize("wrong", ["false", 0.5, [0], None, 0, 1, {}, "", 1e300, [True]])
def test_a_boolean_is_true_or_false_and_nothing_else(wrong: Any) -> None:
    """`"false"`, `0.5` and `[0]` used to be read as true and `null` as false, with 200."""
    error = refusal("BOOL", [2], data=[True, wrong])
    assert (error.code, error.status) == ("invalid_input", 422)
    assert to_numbers(read("BOOL", [2], data=[True, False])) == [True, False]


def test_texts_are_read_from_json_and_from_raw_bytes() -> None:
    packed = b"\2\0\0\0\xc3\xa9\0\0\0\0\1\0\0\0x"
    assert bytes(read("BYTES", [3], data=["é", "", "x"]).data) == packed
    raw = read("BYTES", [3], b64=base64.b64encode(packed).decode())
    assert unpack_texts("x", raw) == ["é", "", "x"]
    number, flag = from_numbers("a", "FP32", (1,), [1.5]), from_numbers("b", "BOOL", (1,), [True])
    unpacked = unpack_tensors(pack_tensors({"a": number, "t": raw, "b": flag}))
    assert unpack_texts("t", unpacked["t"]) == ["é", "", "x"]
    assert (to_numbers(unpacked["a"]), to_numbers(unpacked["b"])) == ([1.5], [True])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\5\0\0\0x", "text 0 of 5 bytes ends beyond the data"),
        (b"\1\0\0", "text 0 cannot be read"),
        (b"\1\0\0\0\xff", "text 0 cannot be read"),
        (b"\1\0\0\0x", "takes 2 texts, not 1"),
        (b"\xff\xff\xff\xffx", "ends beyond the data"),
    ],
)
def test_broken_texts_are_refused(raw: bytes, message: str) -> None:
    error = refusal("BYTES", [2], b64=base64.b64encode(raw).decode())
    assert (error.code, message in error.message) == ("invalid_input", True), error.message


def test_texts_are_text() -> None:
    assert "send text" in refusal("BYTES", [2], data=["a", 1]).message


def test_raw_bytes_of_a_boolean_are_0_or_1() -> None:
    """A byte of 2 is a bool that is neither true nor false to numpy."""
    assert to_numbers(read("BOOL", [2], b64=base64.b64encode(b"\1\0").decode())) == [True, False]
    assert "0 or 1" in refusal("BOOL", [2], b64=base64.b64encode(b"\1\2").decode()).message


@pytest.mark.parametrize("datatype", [*INTEGERS, *FLOATS])
@pytest.mark.parametrize("wrong", [True, False, "1", {}])
def test_booleans_and_strings_are_no_numbers(datatype: str, wrong: Any) -> None:
    """`true` used to count as 1.0."""
    assert refusal(datatype, [2], data=[1, wrong]).code == "invalid_input"


@pytest.mark.parametrize("datatype", FLOATS)
def test_null_is_nan_in_floats(datatype: str) -> None:
    first, second, third = to_numbers(read(datatype, [3], data=[None, 1.5, None]))
    assert (math.isnan(first), second, math.isnan(third)) == (True, 1.5, True)
    assert math.isnan(to_numbers(read(datatype, [1, 2], data=[[None, 1]]))[0])
    error = refusal(datatype, [3], data=[None, "1", True])
    assert error.message.endswith("'1' is among the values; send numbers, or null for NaN")


@pytest.mark.parametrize("datatype", [*INTEGERS, "BOOL", "BYTES"])
def test_null_is_no_other_value(datatype: str) -> None:
    assert "null is among the values; send" in refusal(datatype, [1], data=[None]).message


@pytest.mark.parametrize(
    ("number", "bits"),
    [
        (0.0, 0x0000),
        (-0.0, 0x8000),
        (1, 0x3F80),
        (-2.5, 0xC020),
        (1.00390625, 0x3F80),  # 1 + 2**-8, a tie: to the even one below
        (1.01171875, 0x3F82),  # 1 + 3 * 2**-8, a tie: to the even one above
        (1.0039064, 0x3F81),
        (1 - 2**-20, 0x3F80),
        (3.3895313892515355e38, 0x7F7F),  # the largest
        (2**-133, 0x0001),  # the smallest
        (None, 0x7FC0),
    ],
)
def test_bf16_is_rounded_to_the_nearest(number: float | None, bits: int) -> None:
    packed = struct.pack("<H", bits)
    assert read(BF16, [1], data=[number]).data == packed
    (exact,) = to_numbers(read(BF16, [1], b64=base64.b64encode(packed).decode()))
    assert struct.pack("<f", exact)[2:] == packed


@pytest.mark.parametrize("wrong", [3.4e38, -3.4e38, 1e39, 1e300])
def test_numbers_beyond_bf16_are_refused(wrong: float) -> None:
    assert "a value does not fit BF16" in refusal(BF16, [2], data=[1, wrong]).message
    assert "BF16 [2] takes 4 bytes, not 8" in refusal(BF16, [2], b64=base64.b64encode(bytes(8)).decode()).message


@pytest.mark.parametrize("datatype", INTEGERS)
@pytest.mark.parametrize("wrong", [1.0, 0.5, 1e300, 2**64])
def test_an_integer_has_no_decimal_point_and_fits_its_type(datatype: str, wrong: Any) -> None:
    assert refusal(datatype, [1], data=[wrong]).code == "invalid_input"


@pytest.mark.parametrize("datatype", FLOATS)
def test_an_integer_is_accepted_as_a_float(datatype: str) -> None:
    assert to_numbers(read(datatype, [3], data=[1, 2.0, -3])) == [1, 2, -3]
    assert refusal("FP16", [1], data=[1e6]).code == "invalid_input"


NESTED: list[tuple[list[int], Any]] = [
    ([2, 2], [[1, 2], [3, 4]]),
    ([1, 4], [[1, 2, 3, 4]]),
    ([4, 1], [[1], [2], [3], [4]]),
    ([2, 1, 2], [[[1, 2]], [[3, 4]]]),
    ([4], [1, 2, 3, 4]),
    ([2, 2], [1, 2, 3, 4]),
]


@pytest.mark.parametrize(("shape", "data"), NESTED)
def test_nested_lists_are_read_row_by_row(shape: list[int], data: Any) -> None:
    assert read("FP32", shape, data=data).data == struct.pack("<4f", 1, 2, 3, 4)


RAGGED: list[tuple[list[int], Any]] = [
    ([2, 2], [[1, 2], [3]]),
    ([2, 2], [[1, 2], [3, 4, 5]]),
    ([2, 2], [[1, 2, 3, 4]]),
    ([2, 2], [[1], [2], [3], [4]]),
    ([2, 2], [[1, 2], 3, 4]),
    ([2, 2], [[[1, 2]], [[3, 4]]]),
    ([4], [[1, 2], [3, 4]]),
    ([4], [[1, 2, 3, 4]]),
    ([2, 2, 2], [[1, 2, 3, 4], [5, 6, 7, 8]]),
    ([1], [[[[[[1]]]]]]),
]


@pytest.mark.parametrize(("shape", "data"), RAGGED)
def test_nesting_that_is_not_the_shape_is_refused(shape: list[int], data: Any) -> None:
    assert refusal("FP32", shape, data=data).status == 422


DEEP: Any = []
for _ in range(90):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("datatype", "shape", "values"),
    [
        (DEEP, [1], {"data": [1]}),
        ({"a": DEEP}, [1], {"data": [1]}),
        (None, [1], {"data": [1]}),
        ("FP31", [1], {"data": [1]}),
        ("FP32", [True], {"data": [1]}),
        ("FP32", ["1"], {"data": [1]}),
        ("FP32", [1.0], {"data": [1]}),
        ("FP32", DEEP, {"data": [1]}),
        ("FP32", [10**12], {"data": [1]}),
        ("FP32", [1], {"data": DEEP}),
        ("FP32", [1], {"data": {"0": 1}}),
        ("FP32", [1], {"b64": 7}),
        ("FP32", [1], {"b64": ["AAAA"]}),
        ("FP32", [1], {}),
        ("FP32", [1], {"data": [1], "b64": "AAAA"}),
        ("FP32", [1], {"data": [1], "more": 1}),
    ],
)
def test_the_tensor_header_is_checked_before_the_values(datatype: Any, shape: Any, values: dict[str, Any]) -> None:
    assert refusal(datatype, shape, **values).status in (400, 422)


def test_a_long_list_is_packed_without_conversion() -> None:
    values = [float(number) for number in range(100_000)]
    assert from_numbers("x", "FP64", (100_000,), values).data == struct.pack("<100000d", *values)


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize(("shape", "data"), [([0], []), ([2, 0, 4], []), ([2, 0, 4], [[], []]), ([2, 0, 4], None)])
def test_a_dimension_may_be_empty(datatype: str, shape: list[int], data: Any) -> None:
    """Such as the past of a first step."""
    found = read(datatype, shape, **({"b64": ""} if data is None else {"data": data}))
    assert (found.shape, bytes(found.data)) == (tuple(shape), b"")


def test_an_empty_tensor_does_not_hide_huge_dimensions() -> None:
    assert "too large" in refusal("FP32", [0, 2**39, 2**39], data=[]).message
    assert "takes 0 values, not 1" in refusal("FP32", [0], data=[1]).message
