"""What a PATH on the command line means: an ONNX file, a version's folder, a model's folder, or a folder of models."""

from pathlib import Path
from typing import NamedTuple

from model_runtime.repository.repository import ONNX_FILE, BrokenModel, ModelFolder, scan, with_own_spec
from model_runtime.spec.model_toml import SPEC_FILE, ModelError


class NothingThere(Exception):
    """There is nothing at PATH that could be looked at. One line."""


class Place(NamedTuple):
    """One ONNX file; `folder`: the model it is a version of, None for a file by itself."""

    onnx: Path
    folder: ModelFolder | None

    @property
    def title(self) -> str:
        return f"{self.folder.name} version {self.folder.version}" if self.folder else str(self.onnx)


def find(path: Path) -> list[Place | ModelError]:
    """Every model meant, and for each that is broken, why; raises NothingThere."""
    if path.is_file() and path.parent.name.isdigit() and (path.parent.parent / SPEC_FILE).exists():
        path = path.parent
    if path.is_file():
        return [Place(path, None)]
    if not path.is_dir():
        message = f"{path}: no such file or folder"
        raise NothingThere(message)
    if path.name.isdigit() and ((path / ONNX_FILE).is_file() or (path.resolve().parent / SPEC_FILE).is_file()):
        return [_version(path)]
    if (path / SPEC_FILE).exists() or any((path / name / ONNX_FILE).is_file() for name in _numbers(path)):
        return [_place(one) for one in scan(path.resolve().parent, [path.resolve().name])]
    found = scan(path)
    if not found:
        message = f"{path}: no model in it; allowed: an .onnx file, a folder with {SPEC_FILE}, or a folder of such"
        raise NothingThere(message)
    return [_place(one) for one in found]


def the_file(path: Path) -> Path:
    """The one ONNX file meant; raises NothingThere, and ModelError where its folder is broken."""
    if path.is_file():
        return path
    places = find(path)
    if len(places) > 1:
        message = f"{path}: {len(places)} models are there; name one"
        raise NothingThere(message)
    if isinstance(places[0], ModelError):
        raise places[0]
    return places[0].onnx


def _version(path: Path) -> Place | ModelError:
    parent = path.resolve().parent
    place = _place(*scan(parent.parent, [parent.name]))
    if isinstance(place, ModelError) or place.folder is None:
        return place
    onnx = parent / path.name / ONNX_FILE
    return _of(place.folder._replace(version=path.name, onnx=onnx))


def _place(found: ModelFolder | BrokenModel) -> Place | ModelError:
    if isinstance(found, BrokenModel):
        return ModelError(found.name, None, found.reason)
    return _of(found)


def _of(folder: ModelFolder) -> Place | ModelError:
    try:
        return Place(folder.onnx, with_own_spec(folder))
    except ModelError as error:
        return error


def _numbers(path: Path) -> list[str]:
    return [one.name for one in path.iterdir() if one.name.isdigit()]
