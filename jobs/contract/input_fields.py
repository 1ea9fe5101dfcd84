"""Names the fields of a job's `input`; checks and encodes those of text, token ids and JSON, and counts their rows."""

import codecs
from collections.abc import Mapping
from typing import Any, Final

import orjson

from jobs.contract.errors import Refused
from jobs.contract.json_reader import describe_value

MAX_INPUT_TEXT_BYTES: Final = 1 << 20  # of one text, in UTF-8

# field → the Python type of its value, and its name in messages
_TYPES: Final[dict[str, tuple[type, str]]] = {
    "features": (dict, "an object of named values"),
    "row": (list, "a list of values"),
    "rows": (list, "a list of rows, each a list of values or an object of named values"),
    "texts": (list, "a list of texts"),
    "tokens": (list, "a list of token ids, or of such lists"),
    "query": (str, "text"),
    "documents": (list, "a list of texts"),
    "json": (object, "any JSON value"),
}
_COUNTED: Final = ("rows", "texts", "tokens", "documents")  # each value is a row, but one flat list of ids is one row
_PAIR: Final = frozenset({"query", "documents"})  # the one input of two fields
JSON_INPUT_FIELDS: Final = tuple(_TYPES)
SINGLE_INPUT_FIELDS: Final = ("features", "row", "json")  # that make one item of a job
INPUT_FIELDS: Final = ("image", "audio", "tensors", "text", "bytes", *JSON_INPUT_FIELDS)


def is_input(job_input: Mapping[str, Any]) -> bool:
    """Return whether an object has one of INPUT_FIELDS, or both `query` and `documents`."""
    if len(job_input) == 1:
        name = next(iter(job_input))
        return name in INPUT_FIELDS and name not in _PAIR
    return job_input.keys() == _PAIR


def read_row_count(job_input: Mapping[str, Any], rows: int | None) -> int | None:
    """Return how many rows a job with this input has; None: it has no rows. `rows`: what the request says.

    `job_input` has JSON_INPUT_FIELDS only. Raises Refused if a field's value has another type than it takes, if a text
    is too long, or if a token id is not a whole number from 0.
    """
    for name, value in job_input.items():
        expected, description = _TYPES[name]
        if not isinstance(value, expected):
            raise Refused("invalid_request", f'field "input.{name}" must be {description}, not {describe_value(value)}')
    name = next((name for name in _COUNTED if name in job_input), "")
    if not name:
        check_no_rows(rows, next(iter(job_input)))
        return None
    if name == "tokens" and not isinstance(next(iter(job_input[name]), None), list):
        check_no_rows(rows, name)
        _check_ids(job_input[name], 'field "input.tokens"')
        return None
    count = len(job_input[name])
    if not count:
        raise Refused("invalid_request", f'field "input.{name}" must have at least one {name[:-1]}')
    if rows is not None and rows != count:
        raise Refused("invalid_request", f'field "rows" is {rows}, but "input.{name}" has {count}; leave "rows" out')
    if name != "rows":
        _check_values(job_input, name)
    return count


def check_no_rows(rows: int | None, name: str) -> None:
    """Raise Refused if a request says how many rows its `input.name` has, which has none."""
    if rows is not None:
        several = {"text": "texts", "tokens": "tokens"}.get(name, "rows")
        instead = "a list of lists, not of ids" if name == "tokens" else f'not "input.{name}"'
        message = f'field "rows" is for tensors; send several rows as "input.{several}", {instead}'
        raise Refused("invalid_request", message)


def encode_text(text: Any, what: str) -> bytes:
    """Return a text as UTF-8. `what` names it in messages. Raises Refused if it is none, or too long."""
    if not isinstance(text, str):
        raise Refused("invalid_request", f"{what} must be text, not {describe_value(text)}")
    if len(text) > MAX_INPUT_TEXT_BYTES:  # before memory is taken
        raise _too_long(what, f"has {len(text)} characters")
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise Refused("invalid_request", f"{what} has half of a surrogate pair, at character {error.start}") from error
    if len(data) > MAX_INPUT_TEXT_BYTES:
        raise _too_long(what, f"has {len(data)} bytes")
    return data


def read_text(data: bytes, what: str) -> bytes:
    """Return the bytes of a text, without a byte order mark. Raises Refused if they are not UTF-8, or too many."""
    if len(data) > MAX_INPUT_TEXT_BYTES:
        raise _too_long(what, f"has {len(data)} bytes")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise Refused("invalid_request", f"{what} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    return data.removeprefix(codecs.BOM_UTF8)


def encode_input(job_input: Mapping[str, Any]) -> bytes:
    """Return a job's input of the kind "json": the value of the field `json`, or the whole object of other fields.

    Raises Refused if it is nested too deep to be written.
    """
    try:
        return orjson.dumps(job_input.get("json", job_input))
    except TypeError as error:
        raise Refused("invalid_request", f'field "input" cannot be stored: {error}') from error


def _check_values(job_input: Mapping[str, Any], name: str) -> None:
    """Raise Refused unless each row is a text, or of `tokens` a list of ids."""
    if "query" in job_input:
        encode_text(job_input["query"], 'field "input.query"')
    check = _check_ids if name == "tokens" else encode_text
    for at, value in enumerate(job_input[name]):
        try:
            check(value, f'"input.{name}"[{at}]')
        except Refused as error:
            error.details["row"] = at
            raise


def _check_ids(ids: Any, what: str) -> None:
    """Raise Refused unless a value is a list of numbers that may be token ids. The worker checks the upper bound."""
    if not isinstance(ids, list):
        raise Refused("invalid_request", f"{what} must be a list of token ids, not {describe_value(ids)}")
    if not ids:
        raise Refused("invalid_request", f"{what} must have at least one token id")
    if not {*map(type, ids)} <= {int} or min(ids) < 0:
        wrong = next(value for value in ids if type(value) is not int or value < 0)
        raise Refused("invalid_request", f"{what}: a token id is a whole number from 0, not {describe_value(wrong)}")


def _too_long(what: str, size: str) -> Refused:
    message = f"{what} {size}: a text may have at most {MAX_INPUT_TEXT_BYTES} bytes in UTF-8"
    return Refused("body_too_large", message, limit_bytes=MAX_INPUT_TEXT_BYTES)
