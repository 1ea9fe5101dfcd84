"""Reads CSV files: delimiter, `sep=` line, UTF-8 or another encoding; refuses text files in other encodings."""

import codecs
import csv
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from cli.bulk.errors import MALFORMED, BadItem, CannotRun

UTF_8: Final = "utf-8"
MAX_FIELD_BYTES: Final = 32 << 20
_DELIMITERS: Final = (",", ";", "\t", "|")
_MAX_HEADER_BYTES: Final = 1 << 20  # characters
# Longer marks first: the UTF-32 mark starts with the UTF-16 mark.
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

Row = Mapping[str, Any] | BadItem


class Table(NamedTuple):
    """Column names, a function that iterates over all rows, and their number."""

    names: list[str]
    rows: Callable[[], Iterator[Row]]
    total: int


def read(path: Path, encoding: str, known: Collection[str]) -> Table:
    """Read a file once and count its rows. Raises CannotRun if it is not text in this encoding.

    `known`: lowercase column names; a delimiter that yields one of them is preferred.
    """
    refuse_other_encodings(path, encoding)
    csv.field_size_limit(min(sys.maxsize, MAX_FIELD_BYTES))
    codec = "utf-8-sig" if codecs.lookup(encoding).name == UTF_8 else encoding
    try:
        with path.open(encoding=codec, newline="") as file:
            delimiter = _detect_delimiter(file, known)
            names = next(csv.reader(file, delimiter=delimiter, skipinitialspace=True), [])
        table = Table([name.strip() for name in names], lambda: _rows(path, codec, known), 0)
        return table._replace(total=sum(1 for _ in table.rows()))
    except UnicodeError as error:
        raise CannotRun(_encoding_error(path, encoding, error)) from error


def refuse_other_encodings(path: Path, encoding: str = UTF_8) -> None:
    """Raise CannotRun for a byte order mark of UTF-16 or UTF-32, unless another encoding than UTF-8 is set."""
    with path.open("rb") as file:
        start = file.read(4)
    for mark, name in _BYTE_ORDER_MARKS:
        if start.startswith(mark) and codecs.lookup(encoding).name == UTF_8:
            alternative = f", or use --encoding {name.lower()}" if path.suffix.lower() == ".csv" else ""
            raise CannotRun(f"{path} is text in {name}: save a copy as UTF-8{alternative}")


def _detect_delimiter(file: TextIO, known: Collection[str]) -> str:
    """Detect the delimiter from the first line, and move to the header."""
    line = file.readline(_MAX_HEADER_BYTES)
    text = line.strip().strip('"')
    if text[:4].lower() == "sep=" and len(text) <= len("sep=;"):  # written by Excel
        return text[4:] or "\t"
    file.seek(0)

    def fitness(delimiter: str) -> tuple[bool, int]:
        names = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
        return any(name.strip().lower() in known for name in names), len(names)

    return max(_DELIMITERS, key=fitness)  # the first one wins a tie


def _rows(path: Path, codec: str, known: Collection[str]) -> Iterator[Row]:
    with path.open(encoding=codec, newline="") as file:
        reader = csv.reader(file, delimiter=_detect_delimiter(file, known), skipinitialspace=True)
        names = [name.strip() for name in next(reader, [])]
        while True:
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadItem(MALFORMED, f"not valid CSV: {error}")
                continue
            if values:
                yield dict(zip(names, values, strict=False))


def _encoding_error(path: Path, encoding: str, error: UnicodeError) -> str:
    name = codecs.lookup(encoding).name
    reason = f"{path} is not text in {name.upper()}"
    if isinstance(error, UnicodeDecodeError):
        reason += f" (invalid byte 0x{error.object[error.start]:02X})"
    if name != UTF_8:
        return f"{reason}: set --encoding to the encoding of the file"
    return f"{reason}: save a copy as UTF-8, or use --encoding cp1252 for a file from Windows programs"
