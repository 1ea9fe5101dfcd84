"""Reads .jsonl, .csv and .parquet; each row has a path, a URL, a file in base64, features, or a complete job."""

import codecs
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from cli.bulk.errors import DUPLICATE, MALFORMED, BadItem, CannotRun
from cli.bulk.inputs import csv_table, remote
from cli.bulk.inputs.features import FeatureColumns
from cli.bulk.inputs.items import MAX_BYTES, InputSource, Item, decode_base64, file_item, invalid_item, too_large_error
from cli.extras import missing_packages
from jobs.contract.errors import Refused
from jobs.contract.json_reader import BLANK, read_json

SUFFIXES: Final = (".jsonl", ".ndjson", ".csv", ".parquet")
INPUT_COLUMNS: Final = ("path", "file", "filename", "image", "audio", "url", "uri")
ID_COLUMNS: Final = ("custom_id", "id")
MAX_LINE_BYTES: Final = 32 << 20

Row = csv_table.Row


class NoInputColumn(CannotRun):
    """A table has no column of inputs. It may have columns of features."""


def open_table(
    path: Path, column: str | None, encoding: str | None = None, features: Sequence[Mapping[str, str]] = ()
) -> InputSource:
    """Open a table. Raises CannotRun if it has no column of inputs, or is not text in `encoding`.

    `features`: the columns of a tabular model, one job a row; they are not for lines of JSON.
    """
    suffix = path.suffix.lower()
    if encoding is not None and suffix != ".csv":
        raise CannotRun(f"--encoding applies only to .csv, not to {path}")
    if suffix == ".csv":
        known = {*INPUT_COLUMNS, *ID_COLUMNS, *([column.strip().lower()] if column else [])}
        known |= {each["name"].strip().lower() for each in features}
        names, rows, total = csv_table.read(path, encoding or csv_table.UTF_8, known)
    elif suffix == ".parquet":
        names, rows, total = _parquet(path)
    else:
        csv_table.refuse_other_encodings(path)
        return InputSource(
            partial(_items, partial(_json_rows, path), partial(_item, path, column)), sum(1 for _ in _lines(path))
        )
    if features and column is None:
        return InputSource(partial(_items, rows, FeatureColumns(path, names, features).item), total)
    chosen = _choose_column(path, names, column)
    first = next(rows(), {})
    sample = "" if isinstance(first, BadItem) else str(first.get(chosen, ""))
    return InputSource(partial(_items, rows, partial(_item, path, chosen)), total, is_remote=remote.is_remote(sample))


def _choose_column(path: Path, names: list[str], column: str | None) -> str:
    columns = f"{path} has the columns {', '.join(names[:30]) or '(none)'}"
    if column is not None:
        if (match := _find_column(column, names)) is None:
            raise CannotRun(f"no column {column!r}: {columns}")
        return match
    for name in INPUT_COLUMNS:
        if (match := _find_column(name, names)) is not None:
            return match
    raise NoInputColumn(f"name the column of paths or URLs with --column; {columns}")


def _find_column(column: str, names: Iterable[str]) -> str | None:
    """Find a name regardless of case; an exact match is preferred."""
    listed = [*names]
    if column in listed:
        return column
    return next((name for name in listed if name.strip().lower() == column.strip().lower()), None)


def _parquet(path: Path) -> tuple[list[str], Callable[[], Iterator[Row]], int]:
    if hint := missing_packages("parquet", "pyarrow"):
        raise CannotRun(f"reading .parquet {hint}")
    parquet = importlib.import_module("pyarrow.parquet")

    def rows() -> Iterator[Row]:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()

    with parquet.ParquetFile(path) as file:
        return file.schema_arrow.names, rows, file.metadata.num_rows


def _lines(path: Path) -> Iterator[bytes]:
    """Yield every line that is not blank; a line that is too long is cut to MAX_LINE_BYTES."""
    with path.open("rb") as file:
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        while line := file.readline(MAX_LINE_BYTES):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES)
            if line.strip(BLANK):
                yield line


def _json_rows(path: Path) -> Iterator[Row]:
    for line in _lines(path):
        if len(line) >= MAX_LINE_BYTES:
            yield too_large_error("the line", len(line))
            continue
        try:
            row = read_json(line, "the line")
        except Refused as error:
            yield BadItem(MALFORMED, error.message)
            continue
        if isinstance(row, str | dict):
            yield {"path": row} if isinstance(row, str) else row
        else:
            yield BadItem(MALFORMED, "a line must be a JSON object, or a path or URL in quotes")


def _items(
    rows: Callable[[], Iterator[Row]], create: Callable[[int, Mapping[str, Any], str | None], Item]
) -> Iterator[Item]:
    """Yield an item for each row. `create`: makes it of the line's number, its columns, and its id."""
    seen: dict[int, int] = {}  # hash of an id → its line
    for line, row in enumerate(rows(), 1):
        if isinstance(row, BadItem):
            yield invalid_item(line, "", row)
            continue
        item_id = next((str(value) for name in ID_COLUMNS if (value := _column_value(row, name)) is not None), None)
        if item_id is not None and (before := seen.setdefault(hash(item_id), line)) != line:
            error = BadItem(DUPLICATE, f"the id {item_id[:80]!r} is already used on line {before}")
            yield invalid_item(line, "", error, item_id)
        else:
            yield create(line, row, item_id)


def _item(table: Path, column: str | None, line: int, row: Mapping[str, Any], item_id: str | None) -> Item:
    job = row.get("body", row)  # as in OpenAI's batch files
    if column is None and isinstance(job, dict) and isinstance(job.get("input"), dict):
        return _job_item(line, job, item_id)
    chosen = column or next((name for name in INPUT_COLUMNS if _find_column(name, row) is not None), "")
    value = _column_value(row, chosen)
    if not isinstance(value, str) or not value:
        names = f"{chosen!r}" if chosen else f"any of {', '.join(INPUT_COLUMNS)}"
        return invalid_item(line, "", BadItem(MALFORMED, f"the line has no text in {names}"), item_id)
    if value.startswith("data:"):
        return _base64_item(line, value, item_id)
    if remote.is_remote(value):
        return remote.url_item(line, value, item_id)
    if "\0" in value:
        return invalid_item(line, "", BadItem(MALFORMED, "a path must not contain zero bytes"), item_id)
    return file_item(line, value, table.parent / value, item_id)


def _column_value(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column, regardless of case; None if the row has no such column."""
    value = row.get(name)
    if value is not None or name in row:
        return value
    return next((cell for key, cell in row.items() if key.strip().lower() == name.lower()), None)


def _job_item(line: int, job: Mapping[str, Any], item_id: str | None) -> Item:
    """Return the item of a line that is a job. A lone image is decoded here; the service validates anything else."""
    job_input = job["input"]
    image = job_input.get("image")
    if set(job) == {"input"} and set(job_input) == {"image"} and isinstance(image, str):
        return _base64_item(line, image, item_id)
    file = job_input.get("image", job_input.get("audio"))
    size = len(file) if isinstance(file, str) else 1024
    return Item(line, "", size, lambda: b"", item_id, job)


def _base64_item(line: int, text: str, item_id: str | None) -> Item:
    if len(text) > MAX_BYTES * 4 // 3:
        return invalid_item(line, "", too_large_error("the input", len(text) * 3 // 4), item_id)
    return Item(line, "", len(text) * 3 // 4, partial(decode_base64, text), item_id)
