"""Turns the rows of a .csv or .parquet table into jobs of a tabular model: one job a row, by the names of columns."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cli.bulk.errors import BadItem, CannotRun
from cli.bulk.inputs.items import Item, invalid_item

MAX_NAMED: Final = 20  # columns in a message
ROW_BYTES: Final = 256  # of a job, an estimate
_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}


class FeatureColumns:
    """The columns of a model, as its card lists them, and the columns of a table that they are read from."""

    def __init__(self, path: Path, names: Sequence[str], columns: Sequence[Mapping[str, str]]) -> None:
        """Find each column of the model regardless of case. Raises CannotRun if the table lacks one."""
        found = {name.strip().lower(): name for name in reversed(names)}
        lacking = [each["name"] for each in columns if each["name"].strip().lower() not in found]
        if lacking:
            listed = ", ".join(lacking[:MAX_NAMED])
            has = ", ".join(names[:MAX_NAMED]) or "(none)"
            raise CannotRun(f"{path} lacks columns of the model: {listed}; it has the columns {has}")
        self._columns = [
            (found[each["name"].strip().lower()], each["name"], _CONVERTERS[each["datatype"].rstrip("0123456789")])
            for each in columns
        ]

    def item(self, line: int, row: Mapping[str, Any], item_id: str | None) -> Item:
        """Return the item of a row, whose columns beside the model's are left out."""
        features: dict[str, Any] = {}
        for column, name, convert in self._columns:
            value = row.get(column)
            try:
                features[name] = convert(value)
            except (ValueError, OverflowError):
                text = repr(value)[:80]
                return invalid_item(
                    line, "", BadItem("invalid_input", f"column {name!r}: {text} does not fit"), item_id
                )
        return Item(line, "", ROW_BYTES, lambda: b"", item_id, {"input": {"features": features}})


def _number(value: Any) -> float | None:
    """Convert a cell to a number; an empty cell and NaN are a missing value."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = float(value)
    if math.isinf(number):
        raise ValueError
    return None if math.isnan(number) else number


def _integer(value: Any) -> int:
    if isinstance(value, int):
        return value
    number = float(str(value))
    try:
        return int(str(value))
    except ValueError:
        if not number.is_integer():
            raise
        return int(number)


def _boolean(value: Any) -> bool:
    try:
        return _BOOLEANS[str(value).strip().lower()]
    except KeyError as error:
        raise ValueError from error


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


# datatype without its size → what makes a JSON value of a cell
_CONVERTERS: Final[dict[str, Callable[[Any], Any]]] = {
    "FP": _number,
    "INT": _integer,
    "UINT": _integer,
    "BOOL": _boolean,
    "BYTES": _text,
}
