"""What a PATH on the command line means: an ONNX file, a version's folder, a model's folder, or a folder of models."""

from pathlib import Path
from typing import NamedTuple

from model_runtime.repository.repository import ONNX_FILE, BrokenModel, ModelFolder, list_models, with_version_spec
from model_runtime.spec.model_toml import SPEC_FILE, ModelError


class ModelPathNotFound(Exception):
    """There is nothing at PATH that could be looked at. One line."""


class ModelPath(NamedTuple):
    """One ONNX file; `folder`: the model it is a version of, None for a file by itself."""

    onnx: Path
    folder: ModelFolder | None

    @property
    def title(self) -> str:
        return f"{self.folder.name} version {self.folder.version}" if self.folder else str(self.onnx)


def find_models(path: Path) -> list[ModelPath | ModelError]:
    """Every model meant, and for each that is broken, why; raises NothingThere."""
    if path.is_file() and path.parent.name.isdigit() and (path.parent.parent / SPEC_FILE).exists():
        path = path.parent
    if path.is_file():
        return [ModelPath(path, None)]
    if not path.is_dir():
        message = f"{path}: no such file or folder"
        raise ModelPathNotFound(message)
    if path.name.isdigit() and ((path / ONNX_FILE).is_file() or (path.resolve().parent / SPEC_FILE).is_file()):
        return [_version(path)]
    if (path / SPEC_FILE).exists() or any((path / name / ONNX_FILE).is_file() for name in _version_numbers(path)):
        return [_model_path(one) for one in list_models(path.resolve().parent, [path.resolve().name])]
    found = list_models(path)
    if not found:
        message = f"{path}: no model in it; allowed: an .onnx file, a folder with {SPEC_FILE}, or a folder of such"
        raise ModelPathNotFound(message)
    return [_model_path(one) for one in found]


def find_single_model(path: Path) -> Path:
    """The one ONNX file meant; raises NothingThere, and ModelError where its folder is broken."""
    if path.is_file():
        return path
    places = find_models(path)
    if len(places) > 1:
        message = f"{path}: {len(places)} models are there; name one"
        raise ModelPathNotFound(message)
    if isinstance(places[0], ModelError):
        raise places[0]
    return places[0].onnx


def _version(path: Path) -> ModelPath | ModelError:
    parent = path.resolve().parent
    place = _model_path(*list_models(parent.parent, [parent.name]))
    if isinstance(place, ModelError) or place.folder is None:
        return place
    onnx = parent / path.name / ONNX_FILE
    return _folder_versions(place.folder._replace(version=path.name, onnx=onnx))


def _model_path(found: ModelFolder | BrokenModel) -> ModelPath | ModelError:
    if isinstance(found, BrokenModel):
        return ModelError(found.name, None, found.reason)
    return _folder_versions(found)


def _folder_versions(folder: ModelFolder) -> ModelPath | ModelError:
    try:
        return ModelPath(folder.onnx, with_version_spec(folder))
    except ModelError as error:
        return error


def _version_numbers(path: Path) -> list[str]:
    return [one.name for one in path.iterdir() if one.name.isdigit()]
