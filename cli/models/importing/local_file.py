"""Imports a local ONNX file and its external weights."""

import shutil
from pathlib import Path

from cli.models.importing.source import ImportedModel, ImportFailed, ImportRequest

_WEIGHT_SUFFIXES = ("_data", ".data")


def fetch(request: ImportRequest, onnx: Path) -> ImportedModel:
    """Copy the file; it takes tensors, or images with a preset. Raises ImportFailed."""
    path = Path(request.name)
    try:
        shutil.copyfile(path, onnx)
        for end in _WEIGHT_SUFFIXES:
            weights = path.with_name(path.name + end)
            if weights.is_file():
                shutil.copyfile(weights, onnx.parent / weights.name)
    except OSError as error:
        raise ImportFailed(f"cannot copy {path}: {error.strerror}") from error
    if request.preset is None:
        note = "it takes tensors; for images, import it with --preset, or add [image] to its model.toml"
        return ImportedModel("tensor", f"{path.name}, imported", notes=[note])
    return ImportedModel("image-classification", f"{path.name}, imported", {"preset": request.preset})
