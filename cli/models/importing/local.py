"""A path to an ONNX file: copied, with what lies beside it if that holds its weights."""

import shutil
from pathlib import Path

from cli.models.importing.source import ImportedModel, ImportFailed, ImportRequest

_WEIGHT_SUFFIXES = ("_data", ".data")


def fetch(wanted: ImportRequest, onnx: Path) -> ImportedModel:
    """As tensors, unless a preset says that it takes images."""
    path = Path(wanted.name)
    try:
        shutil.copyfile(path, onnx)
        for end in _WEIGHT_SUFFIXES:
            beside = path.with_name(path.name + end)
            if beside.is_file():
                shutil.copyfile(beside, onnx.parent / beside.name)
    except OSError as error:
        raise ImportFailed(f"{path} can not be copied: {error.strerror}") from error
    if wanted.preset is None:
        note = "it takes tensors; for images, import it with --preset, or write [image] into its model.toml"
        return ImportedModel("tensor", f"{path.name}, imported", notes=[note])
    return ImportedModel("image-classification", f"{path.name}, imported", {"preset": wanted.preset})
