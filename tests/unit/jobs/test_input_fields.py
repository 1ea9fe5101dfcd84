"""Fields of a job's input that stay JSON: their types, the number of rows, and what is stored."""

from typing import Any

import pytest

from jobs.contract.errors import Refused
from jobs.contract.input_fields import MAX_INPUT_TEXT_BYTES, encode_input
from jobs.contract.job_request import read_json_fields


@pytest.mark.parametrize(
    ("job_input", "rows", "stored"),
    [
        ({"features": {"a": 1}}, None, b'{"features":{"a":1}}'),
        ({"row": [1, "x", None]}, None, b'{"row":[1,"x",null]}'),
        ({"rows": [[1], {"a": 2}]}, 2, b'{"rows":[[1],{"a":2}]}'),
        ({"json": "any"}, None, b'"any"'),
        ({"json": None}, None, b"null"),
        ({"texts": ["a", "é"]}, 2, '{"texts":["a","é"]}'.encode()),
        ({"tokens": [1, 0]}, None, b'{"tokens":[1,0]}'),
        ({"tokens": [[1, 0]]}, 1, b'{"tokens":[[1,0]]}'),
        ({"documents": ["a"], "query": "b"}, 1, b'{"documents":["a"],"query":"b"}'),
    ],
)
def test_inputs(job_input: dict[str, Any], rows: int | None, stored: bytes) -> None:
    request = read_json_fields({"input": job_input})
    assert (request.fields, request.rows) == (job_input, rows)
    assert encode_input(job_input) == stored


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": {"features": [1]}}, '"input.features" must be an object of named values'),
        ({"input": {"row": {"a": 1}}}, '"input.row" must be a list of values'),
        ({"input": {"rows": []}}, "must have at least one row"),
        ({"input": {"rows": [[1]]}, "rows": 2}, '"rows" is 2, but "input.rows" has 1'),
        ({"input": {"row": [1]}, "rows": 1}, '"rows" is for tensors'),
        ({"input": {"row": [1], "features": {}}}, "one of the allowed fields"),
        ({"input": {"columns": [1]}}, "one of the allowed fields"),
        ({"input": {"text": 1}}, '"input.text" must be text, not 1'),
        ({"input": {"text": "a"}, "rows": 1}, 'send several rows as "input.texts", not "input.text"'),
        ({"input": {"texts": "a"}}, '"input.texts" must be a list of texts'),
        ({"input": {"texts": []}}, '"input.texts" must have at least one text'),
        ({"input": {"texts": ["a", None]}}, '"input.texts"[1] must be text, not null'),
        ({"input": {"tokens": "a"}}, "\"input.tokens\" must be a list of token ids, or of such lists, not 'a'"),
        ({"input": {"tokens": []}}, 'field "input.tokens" must have at least one token id'),
        ({"input": {"tokens": [[1], []]}}, '"input.tokens"[1] must have at least one token id'),
        ({"input": {"tokens": [[1], 2]}}, '"input.tokens"[1] must be a list of token ids, not 2'),
        ({"input": {"tokens": [1, -2]}}, '"input.tokens": a token id is a whole number from 0, not -2'),
        ({"input": {"tokens": [1, [2]]}}, '"input.tokens": a token id is a whole number from 0, not a list'),
        ({"input": {"tokens": [[1], [True]]}}, '"input.tokens"[1]: a token id is a whole number from 0, not true'),
        ({"input": {"tokens": [1]}, "rows": 1}, 'send several rows as "input.tokens", a list of lists, not of ids'),
        ({"input": {"tokens": [[1]]}, "rows": 2}, '"rows" is 2, but "input.tokens" has 1'),
        ({"input": {"query": "a"}}, 'one of the allowed fields, or with "query" and "documents"'),
        ({"input": {"query": "a", "texts": ["a"]}}, "one of the allowed fields"),
        ({"input": {"query": 1, "documents": ["a"]}}, '"input.query" must be text, not 1'),
        ({"input": {"query": "a", "documents": []}}, '"input.documents" must have at least one document'),
        ({"input": {"query": "a", "documents": ["a"]}, "rows": 3}, '"rows" is 3, but "input.documents" has 1'),
        ({"input": {"text": "a", "image": ""}}, "one of the allowed fields"),
    ],
)
def test_invalid_inputs(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        read_json_fields(fields)
    assert caught.value.code == "invalid_request"
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("job_input", "message"),
    [
        ({"text": "a" * (MAX_INPUT_TEXT_BYTES + 1)}, 'field "input.text" has 1048577 characters'),
        ({"text": "é" * (MAX_INPUT_TEXT_BYTES // 2 + 1)}, 'field "input.text" has 1048578 bytes'),
        ({"texts": ["a", "a" * (MAX_INPUT_TEXT_BYTES + 1)]}, '"input.texts"[1] has 1048577 characters'),
        ({"query": "a" * (MAX_INPUT_TEXT_BYTES + 1), "documents": ["a"]}, 'field "input.query" has'),
    ],
)
def test_a_text_that_is_too_long(job_input: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match="a text may have at most 1048576 bytes in UTF-8") as caught:
        read_json_fields({"input": job_input})
    assert (caught.value.code, caught.value.details["limit_bytes"]) == ("body_too_large", MAX_INPUT_TEXT_BYTES)
    assert caught.value.message.startswith(message)


def test_a_text_is_kept_as_utf_8() -> None:
    assert read_json_fields({"input": {"text": "é\n"}}).text == b"\xc3\xa9\n"
    with pytest.raises(Refused, match="half of a surrogate pair, at character 1"):
        read_json_fields({"input": {"text": "a\ud800"}})


def test_rows_that_agree_are_taken() -> None:
    assert read_json_fields({"input": {"rows": [[1], [2]]}, "rows": 2}).rows == 2
