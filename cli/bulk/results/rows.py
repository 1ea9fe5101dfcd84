"""Result rows and the file formats they are written in: JSONL during the run, CSV and Parquet at its end."""

import csv
import importlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from cli.bulk.errors import CannotRun
from cli.bulk.inputs.items import Item
from cli.extras import missing_packages

SUFFIXES: Final = (".jsonl", ".ndjson", ".csv", ".parquet")
COLUMNS: Final = (
    "line",
    "input",
    "id",
    "status",
    "label",
    "probability",
    "value",
    "error_code",
    "error_message",
    "output",
)
ROW_GROUP_SIZE: Final = 10_000


class ResultRow(NamedTuple):
    """The result of a line. `output` is JSON or None, `error` is (code, message) or None; `batch_size` 0: not run."""

    item: Item
    status: str
    output: bytes | None
    error: tuple[str, str] | None
    batch_size: int = 0

    def json_line(self) -> bytes:
        """Encode the row as a line of JSON."""
        row: dict[str, Any] = {"line": self.item.line, "input": self.item.name}
        if self.item.id is not None:
            row["id"] = self.item.id
        row["status"] = self.status
        row["output"] = orjson.Fragment(self.output) if self.output else None
        row["error"] = dict(zip(("code", "message"), self.error, strict=True)) if self.error else None
        return orjson.dumps(row) + b"\n"


def failed_row(item: Item, code: str, message: str, status: str = "failed") -> ResultRow:
    return ResultRow(item, status, None, (code, message))


def check_output_format(output: Path) -> None:
    """Raise CannotRun if the results cannot be written in the format of their file name."""
    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise CannotRun(f"-o {output}: the suffix sets the format; allowed: {', '.join(SUFFIXES)}")
    if suffix == ".parquet" and (hint := missing_packages("parquet", "pyarrow")):
        raise CannotRun(f"writing .parquet {hint}")


def journal_path(output: Path) -> Path:
    """Return the JSONL file that a run appends to: the output itself, or a file that is converted at the end."""
    return output if output.suffix.lower() in SUFFIXES[:2] else output.with_name(output.name + ".lines.jsonl")


def convert_journal(journal: Path, output: Path) -> None:
    """Convert a journal to CSV or Parquet, atomically. Raises OSError."""
    if journal == output:
        return
    part = output.with_name(output.name + ".part")
    (_write_csv if output.suffix.lower() == ".csv" else _write_parquet)(journal, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(output)


def read_rows(journal: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a journal that no run is writing."""
    with journal.open("rb") as file:
        for line in file:
            yield json.loads(line)


def _flatten_row(row: dict[str, Any]) -> dict[str, Any]:
    output, error = row["output"], row["error"] or {}
    label, probability = _best_label(output or {})
    value = (output or {}).get("value")
    return {
        **{name: row.get(name) for name in ("line", "input", "id", "status")},
        "label": label,
        "probability": probability,
        "value": value if isinstance(value, int | float) else None,
        "error_code": error.get("code"),
        "error_message": error.get("message"),
        "output": None if output is None else orjson.dumps(output).decode(),
    }


def _best_label(output: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the label that an output names, or its best prediction has, and its probability; None for neither."""
    best = (output.get("predictions") or [output])[0]
    label = best.get("label") if isinstance(best, dict) else None
    if label is None:
        return None, None
    probabilities = output.get("probabilities")
    return label, probabilities.get(str(label)) if isinstance(probabilities, dict) else best.get("probability")


def _write_csv(journal: Path, part: Path) -> None:
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(_flatten_row(row) for row in read_rows(journal))


def _write_parquet(journal: Path, part: Path) -> None:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    kinds = {"line": arrow.int64(), "probability": arrow.float64(), "value": arrow.float64()}
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
    """Convert label and probability to the types of their columns; a custom task may return any type."""
    label, probability = row["label"], row["probability"]
    row["label"] = label if label is None else str(label)
    row["probability"] = probability if isinstance(probability, int | float) else None
    return row
