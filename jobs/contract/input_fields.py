"""Checks and encodes the fields of a job's `input` that stay JSON: features, rows, a value for a custom task."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from jobs.contract.errors import Refused
from jobs.contract.json_reader import describe_value

# field → the Python type of its value, and its name in messages
_TYPES: Final[dict[str, tuple[type, str]]] = {
    "features": (dict, "an object of named values"),
    "row": (list, "a list of values"),
    "rows": (list, "a list of rows, each a list of values or an object of named values"),
    "json": (object, "any JSON value"),
}
JSON_INPUT_FIELDS: Final = tuple(_TYPES)
INPUT_FIELDS: Final = ("image", "tensors", "bytes", *JSON_INPUT_FIELDS)


def read_row_count(job_input: Mapping[str, Any], rows: int | None) -> int | None:
    """Return how many rows a job with this input has; None: it has no rows. `rows`: what the request says.

    `job_input` has one of JSON_INPUT_FIELDS. Raises Refused if the field's value has another type than it takes.
    """
    ((name, value),) = job_input.items()
    expected, description = _TYPES[name]
    if not isinstance(value, expected):
        raise Refused("invalid_request", f'field "input.{name}" must be {description}, not {describe_value(value)}')
    if name != "rows":
        if rows is not None:
            message = f'field "rows" is for tensors; send several rows as "input.rows", not "input.{name}"'
            raise Refused("invalid_request", message)
        return None
    count = len(job_input["rows"])
    if not count:
        raise Refused("invalid_request", 'field "input.rows" must have at least one row')
    if rows is not None and rows != count:
        raise Refused("invalid_request", f'field "rows" is {rows}, but "input.rows" has {count}; leave "rows" out')
    return count


def encode_input(job_input: Mapping[str, Any]) -> bytes:
    """Return a job's input of the kind "json": the value of the field `json`, or the whole object of another field.

    Raises Refused if it is nested too deep to be written.
    """
    try:
        return orjson.dumps(job_input.get("json", job_input))
    except TypeError as error:
        raise Refused("invalid_request", f'field "input" cannot be stored: {error}') from error
