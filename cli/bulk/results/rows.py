"""What became of a line, and how that looks in a results file: JSONL as the run goes on, CSV and Parquet from it."""

import csv
import importlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from cli.bulk.errors import CannotRun
from cli.bulk.inputs.items import Item

SUFFIXES: Final = (".jsonl", ".ndjson", ".csv", ".parquet")
COLUMNS: Final = ("line", "input", "id", "status", "label", "probability", "error_code", "error_message", "output")
ROW_GROUP_SIZE: Final = 10_000
PYARROW_MISSING: Final = 'writing .parquet needs pyarrow: pip install -e ".[parquet]" in the checkout'


class ResultRow(NamedTuple):
    """How a line ended. `output` is JSON, or None; `error` is None, or code and message; `batch_size` 0: not run."""

    item: Item
    status: str
    output: bytes | None
    error: tuple[str, str] | None
    batch_size: int = 0

    def json_line(self) -> bytes:
        """Write it as a line of the results."""
        row: dict[str, Any] = {"line": self.item.line, "input": self.item.name}
        if self.item.id is not None:
            row["id"] = self.item.id
        row["status"] = self.status
        row["output"] = orjson.Fragment(self.output) if self.output else None
        row["error"] = dict(zip(("code", "message"), self.error, strict=True)) if self.error else None
        return orjson.dumps(row) + b"\n"


def failed_row(item: Item, code: str, message: str, status: str = "failed") -> ResultRow:
    """End a line with an error."""
    return ResultRow(item, status, None, (code, message))


def check_output_format(output: Path) -> None:
    """Raise CannotRun for results that can not be written as their name says."""
    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise CannotRun(f"-o {output}: the results' format is told by the name; allowed: {', '.join(SUFFIXES)}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise CannotRun(PYARROW_MISSING)


def journal_path(output: Path) -> Path:
    """Name the file that is appended to: the results themselves, or the lines that they are made of at the end."""
    return output if output.suffix.lower() in SUFFIXES[:2] else output.with_name(output.name + ".lines.jsonl")


def convert_journal(journal: Path, output: Path) -> None:
    """Make CSV or Parquet of a journal, whole or not at all; raises OSError."""
    if journal == output:
        return
    part = output.with_name(output.name + ".part")
    (_write_csv if output.suffix.lower() == ".csv" else _write_parquet)(journal, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(output)


def read_rows(journal: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a journal that is not being written."""
    with journal.open("rb") as file:
        for line in file:
            yield json.loads(line)


def _flatten_row(row: dict[str, Any]) -> dict[str, Any]:
    output, error = row["output"], row["error"] or {}
    best = ((output or {}).get("predictions") or [{}])[0]
    best = best if isinstance(best, dict) else {}
    return {
        **{name: row.get(name) for name in ("line", "input", "id", "status")},
        "label": best.get("label"),
        "probability": best.get("probability"),
        "error_code": error.get("code"),
        "error_message": error.get("message"),
        "output": None if output is None else orjson.dumps(output).decode(),
    }


def _write_csv(journal: Path, part: Path) -> None:
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(_flatten_row(row) for row in read_rows(journal))


def _write_parquet(journal: Path, part: Path) -> None:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    kinds = {"line": arrow.int64(), "probability": arrow.float64()}
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in COLUMNS])
    with parquet.ParquetWriter(part, schema) as writer:
        group: list[dict[str, Any]] = []
        for row in read_rows(journal):
            group.append(_with_column_types(_flatten_row(row)))
            if len(group) == ROW_GROUP_SIZE:
                writer.write_table(arrow.Table.from_pylist(group, schema))
                group = []
        writer.write_table(arrow.Table.from_pylist(group, schema))


def _with_column_types(row: dict[str, Any]) -> dict[str, Any]:
    """A task of one's own may call anything a label, and anything a probability."""
    label, probability = row["label"], row["probability"]
    row["label"] = label if label is None else str(label)
    row["probability"] = probability if isinstance(probability, int | float) else None
    return row
