"""What a source gives: an ONNX file where it is told to put it, and what must be known to serve that."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

Weights = Literal["trained", "random"]
SEED = 7  # of random weights


class ImportFailed(Exception):
    """What was asked for can not be had. One line."""


class ImportedModel(NamedTuple):
    """`image`, `classification`: tables of model.toml; `labels`: a name a class; `notes`: what is to be known."""

    task: str
    description: str
    image: Mapping[str, Any] = {}
    classification: Mapping[str, Any] = {}
    labels: Sequence[str] | None = None
    notes: Sequence[str] = ()


class ImportRequest(NamedTuple):
    """`name` is what stands behind the source's colon, `file` one of several where a source has such."""

    name: str
    weights: Weights = "trained"
    file: str | None = None
    preset: str | None = None


Fetch = Callable[[ImportRequest, Path], ImportedModel]
"""Writes the ONNX file; raises NotImported."""


def import_library(name: str) -> Any:
    """Another's module; raises NotImported where it is there and does not start, as beside another PyTorch."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # of compiled parts and of their registering: they share no base
        raise ImportFailed(f"{name} is installed and does not start: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An error of somebody else's library on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
