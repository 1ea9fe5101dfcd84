"""Numbers on a command line: readers for `add_argument(type=…)` that say what is allowed where they refuse."""

import argparse
from collections.abc import Callable


def float_between(low: float, high: float) -> Callable[[str], float]:
    """Read a number from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if low <= value <= high:
            return value
        message = f"{text[:40]!r}: a number from {low:g} to {high:g}"
        raise argparse.ArgumentTypeError(message)

    return read


def int_between(low: int, high: int, meaning: str = "") -> Callable[[str], int]:
    """Read a whole number; `meaning`: what is said of the least, in brackets, if it is no mere number."""

    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 19 and low <= int(text) <= high:
            return int(text)
        least = f"{low} ({meaning})" if meaning else str(low)
        message = f"{text[:40]!r}: a whole number from {least} to {high}"
        raise argparse.ArgumentTypeError(message)

    return read
