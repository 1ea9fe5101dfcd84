"""The interface of import sources (request, imported model, error), and helpers that several sources share."""

import difflib
import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

Weights = Literal["trained", "random"]
SEED = 7  # seed of random weights


class ImportFailed(Exception):
    """The model cannot be imported; the message is one line."""


class ImportedModel(NamedTuple):
    """Contents of model.toml. `image`, `classification`: its tables; `labels`: class names; `notes`: for the user.

    `outputs`: those that are computed, empty for all. `files`: to lay beside model.toml, by their names there.
    """

    task: str
    description: str
    image: Mapping[str, Any] = {}
    classification: Mapping[str, Any] = {}
    labels: Sequence[str] | None = None
    notes: Sequence[str] = ()
    outputs: Sequence[str] = ()
    files: Mapping[str, Path] = {}


class ImportRequest(NamedTuple):
    """What to import. `name`: the part of SOURCE after the colon; `file`: one of several files of a repository.

    `task`: of model.toml, for a model of Hugging Face; None: its files say it.
    """

    name: str
    weights: Weights = "trained"
    file: str | None = None
    preset: str | None = None
    task: str | None = None


Fetch = Callable[[ImportRequest, Path], ImportedModel]
"""Write the ONNX file to the path. Raises ImportFailed."""


def import_library(name: str) -> Any:
    """Import a third-party module. Raises ImportFailed if it is broken, as with an incompatible PyTorch."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # compiled extensions raise errors without a common base
        raise ImportFailed(f"{name} is installed but cannot be imported: {one_line(error)}") from error


def check_network(source: str, name: str, known: Collection[str]) -> None:
    """Raise ImportFailed, with similar names, if a library has no network of this name."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.4) or sorted(known)[:5]
        raise ImportFailed(f"{source} has no supported network {name[:80]!r}; similar: {', '.join(near)}")


def notes_of(request: ImportRequest) -> list[str]:
    """Return the notes on a model with these weights."""
    return ["random weights: predictions are meaningless, classes are numbered"] if request.weights == "random" else []


def one_line(error: BaseException) -> str:
    """Return the message of a third-party error on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
