"""Prints the answers of a gateway, as tables or as JSON."""

import argparse
import json
from collections.abc import Iterable, Sequence


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that prints the answer of the gateway as it is."""
    parser.add_argument("--json", action="store_true", help="print the JSON of the gateway's answer")


def print_json(value: object) -> None:
    print(json.dumps(value, indent=1))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; None is shown as a hyphen."""
    texts = [list(columns), *([("-" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
