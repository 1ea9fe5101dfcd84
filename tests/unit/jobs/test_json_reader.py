"""JSON of callers is read within one set of bounds, and is then safe to write, compare and show."""

import codecs
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.errors import Refused
from jobs.contract.json_reader import (
    BLANK,
    MAX_DEPTH,
    MAX_VALUES,
    describe_value,
    read_json,
    read_object,
    require_object,
)

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner))


def code(text: bytes | str) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        read_json(text, "the body")
    assert len(refused.value.message) < 300
    return refused.value.code, refused.value.message


def nested(levels: int, bracket: str = "[]") -> str:
    begin = {"[]": "[", "{}": '{"a":'}[bracket]
    return begin * levels + ("1" if bracket == "{}" else "") + bracket[1] * levels


@given(VALUES)
def test_json_within_the_bounds_is_read_unchanged(value: object) -> None:
    text = json.dumps(value)
    assert read_json(text, "it") == read_json(text.encode(), "it") == orjson.loads(text)


@pytest.mark.parametrize("bracket", ["[]", "{}"])
def test_depth_is_bounded_below_the_limit_of_the_parser(bracket: str) -> None:
    """`"datatype": [[[…]]]` was a 500, because `str()` of 1,000 levels ends in a RecursionError."""
    value = read_json(nested(MAX_DEPTH, bracket), "it")
    assert orjson.dumps(value)
    assert repr(value)
    for levels in (MAX_DEPTH + 1, 300, 1000, 1024, 1025, 100_000):
        found, message = code(nested(levels, bracket))
        assert found == "invalid_request"
        assert f"{MAX_DEPTH} levels" in message


def test_depth_counts_nesting_and_not_brackets() -> None:
    wide = "[" + ",".join([nested(3)] * 5000) + "]"
    assert len(read_json(wide, "it")) == 5000
    assert read_json(json.dumps({"text": "[{" * 5000}), "it")
    hidden = json.dumps({"model": "m", "input": [{}] * 200, "parameters": json.loads(nested(500))})
    assert "'parameters'" in code(hidden)[1]


def test_values_are_counted_before_they_are_read() -> None:
    """Four lines of `{},{},…` took the delivering process to 3.5 GB."""
    for small in (b"{}", b"[]", b"1", b'""'):
        assert code(b"[" + b",".join([small] * (MAX_VALUES + 1)) + b"]")[0] == "body_too_large"
    assert read_json(b'"' + b"x" * (2 * MAX_VALUES) + b'"', "it")


def test_numbers_of_many_digits_are_read_or_refused_quickly() -> None:
    assert code(b"1" * 5000)[0] == "malformed_request"
    assert code(b'{"deadline_ms": %s}' % (b"9" * 1_000_000))[0] == "malformed_request"
    assert read_json(b"1" * 300, "it") == float("1" * 300)
    assert read_json(b"18446744073709551615", "it") == 2**64 - 1


@pytest.mark.parametrize("text", ['{"a": "\u00e9"}', "[1]", ' \r\n{"a": 1}'])
def test_a_byte_order_mark_is_skipped_and_other_encodings_are_named(text: str) -> None:
    assert read_json(codecs.BOM_UTF8 + text.encode(), "it") == read_json("\ufeff" + text, "it") == orjson.loads(text)
    for encoding, name in (
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
    ):
        found, message = code(text.encode(encoding))
        assert (found, name in message) == ("malformed_request", True), encoding
    assert "UTF-16" in code(codecs.BOM_UTF16_BE + text.encode("utf-16-be"))[1]
    assert "UTF" not in code(b"\x1f\x8b\x08\x00\x00binary")[1].replace("UTF-8", "")


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b'{"a": 1}}', b'"\xff"', b'"\\ud800"', "\ud800", b"1e400"])
def test_invalid_json_is_refused(text: bytes | str) -> None:
    assert code(text)[0] == "malformed_request"


def test_a_value_that_must_be_an_object_is_checked() -> None:
    assert read_object(b'{"a": 1}', "it") == require_object({"a": 1}, "it")
    for other in (b"[]", b"1", b"null", b'"{}"'):
        with pytest.raises(Refused, match="it must be a JSON object"):
            read_object(other, "it")


def test_any_value_is_shortened_in_messages() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    values: list[Any] = [deep, {"a": deep}, "x" * 10_000_000, 10**100_000, 1e300, None, True, b"bytes", object()]
    assert max(len(describe_value(value)) for value in values) < 100
    texts: dict[str, Any] = {"null": None, "true": True, "7": 7, "'a'": "a", "a list": [], "an object": {}}
    assert [describe_value(value) for value in texts.values()] == [*texts]


def test_a_line_with_only_a_byte_order_mark_is_blank() -> None:
    assert not (codecs.BOM_UTF8 + b" \r").strip(BLANK)
    assert b"{}".strip(BLANK)
