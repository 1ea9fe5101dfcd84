"""A path to an ONNX file: copied, with what lies beside it if that holds its weights."""

import shutil
from pathlib import Path

from cli.models.importing.source import Imported, NotImported, Wanted

_WEIGHTS = ("_data", ".data")


def fetch(wanted: Wanted, onnx: Path) -> Imported:
    """As tensors, unless a preset says that it takes images."""
    path = Path(wanted.name)
    try:
        shutil.copyfile(path, onnx)
        for end in _WEIGHTS:
            beside = path.with_name(path.name + end)
            if beside.is_file():
                shutil.copyfile(beside, onnx.parent / beside.name)
    except OSError as error:
        raise NotImported(f"{path} can not be copied: {error.strerror}") from error
    if wanted.preset is None:
        note = "it takes tensors; for images, import it with --preset, or write [image] into its model.toml"
        return Imported("tensor", f"{path.name}, imported", notes=[note])
    return Imported("image-classification", f"{path.name}, imported", {"preset": wanted.preset})
