"""Reads CSV files: detects the delimiter, honours a `sep=` line, and decodes UTF-8 or a given encoding."""

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
# Longer marks first: that of UTF-32 begins as that of UTF-16 does.
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

Row = Mapping[str, Any] | BadItem


class Table(NamedTuple):
    """The names of the columns, what gives all rows from the first on, and how many there are."""

    names: list[str]
    rows: Callable[[], Iterator[Row]]
    total: int


def read(path: Path, encoding: str, known: Collection[str]) -> Table:
    """Look at a file to its end; raises CannotRun where it is not text in this encoding.

    `known`: names of columns, in small letters. Of the delimiters the one counts that makes one of them.
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
    """Raise CannotRun where a file begins as text in UTF-16 or UTF-32 does, and nobody said that it is."""
    with path.open("rb") as file:
        begin = file.read(4)
    for mark, name in _BYTE_ORDER_MARKS:
        if begin.startswith(mark) and codecs.lookup(encoding).name == UTF_8:
            also = f", or --encoding {name.lower()}" if path.suffix.lower() == ".csv" else ""
            raise CannotRun(f"{path} is text in {name}; allowed: a copy saved as UTF-8{also}")


def _detect_delimiter(file: TextIO, known: Collection[str]) -> str:
    """Find the delimiter by the first line, and place the file at the header."""
    line = file.readline(_MAX_HEADER_BYTES)
    said = line.strip().strip('"')
    if said[:4].lower() == "sep=" and len(said) <= len("sep=;"):  # Excel's word; no column is called that
        return said[4:] or "\t"
    file.seek(0)

    def fitness(delimiter: str) -> tuple[bool, int]:
        names = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
        return any(name.strip().lower() in known for name in names), len(names)

    return max(_DELIMITERS, key=fitness)  # the first of equals


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
                yield BadItem(MALFORMED, f"not a line of CSV: {error}")
                continue
            if values:
                yield dict(zip(names, values, strict=False))


def _encoding_error(path: Path, encoding: str, error: UnicodeError) -> str:
    named = codecs.lookup(encoding).name
    what = f"{path} is not text in {named.upper()}"
    if isinstance(error, UnicodeDecodeError):
        what += f" (byte 0x{error.object[error.start]:02X} does not occur there)"
    if named != UTF_8:
        return f"{what}; allowed: --encoding with the name of the encoding that it was saved in"
    return f"{what}; allowed: a copy saved as UTF-8, or --encoding cp1252 for one that Windows programs saved"
