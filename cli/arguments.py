"""Options that several verbs share, and parsers of bounded numbers whose errors name the allowed range."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path


def float_between(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of numbers from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if low <= value <= high:
            return value
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be a number from {low:g} to {high:g}")

    return read


def int_between(low: int, high: int, meaning: str = "") -> Callable[[str], int]:
    """Return a parser of integers from `low` to `high`. `meaning` explains a special `low` in the error message."""

    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 19 and low <= int(text) <= high:
            return int(text)
        least = f"{low} ({meaning})" if meaning else str(low)
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be an integer from {least} to {high}")

    return read


def models_dir() -> Path:
    return Path(os.environ.get("JITNEY_MODELS_DIR") or "models")


def add_models_dir(parser: argparse.ArgumentParser) -> None:
    text = "folder of models (JITNEY_MODELS_DIR)"
    parser.add_argument("--models-dir", type=Path, default=models_dir(), metavar="DIR", help=text)


def add_provider(parser: argparse.ArgumentParser) -> None:
    providers = ("auto", "cpu", "cuda", "tensorrt")
    parser.add_argument("--provider", choices=providers, default="auto", help="execution provider (auto)")
