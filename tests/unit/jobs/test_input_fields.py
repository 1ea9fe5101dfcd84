"""Fields of a job's input that stay JSON: their types, the number of rows, and what is stored."""

from typing import Any

import pytest

from jobs.contract.errors import Refused
from jobs.contract.input_fields import encode_input
from jobs.contract.job_request import read_json_fields


@pytest.mark.parametrize(
    ("job_input", "rows", "stored"),
    [
        ({"features": {"a": 1}}, None, b'{"features":{"a":1}}'),
        ({"row": [1, "x", None]}, None, b'{"row":[1,"x",null]}'),
        ({"rows": [[1], {"a": 2}]}, 2, b'{"rows":[[1],{"a":2}]}'),
        ({"json": "any"}, None, b'"any"'),
        ({"json": None}, None, b"null"),
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
    ],
)
def test_invalid_inputs(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        read_json_fields(fields)
    assert caught.value.code == "invalid_request"
    assert message in caught.value.message


def test_rows_that_agree_are_taken() -> None:
    assert read_json_fields({"input": {"rows": [[1], [2]]}, "rows": 2}).rows == 2
