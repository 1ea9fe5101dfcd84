"""Resolves a PATH on the command line to ONNX files: a file, a version, a model, or a folder of models."""

from pathlib import Path
from typing import NamedTuple

from cli.models.errors import ModelPathNotFound
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.engine.open_engine import AnyEngine, open_engine
from model_runtime.repository.repository import ONNX_FILE, BrokenModel, ModelFolder, list_models, with_version_spec
from model_runtime.spec.model_toml import SPEC_FILE, ModelError


class ModelPath(NamedTuple):
    """An ONNX file. `folder`: the model folder of its version, None for a single file."""

    onnx: Path
    folder: ModelFolder | None

    @property
    def title(self) -> str:
        return f"{self.folder.name} version {self.folder.version}" if self.folder else str(self.onnx)

    def open_engine(self, provider: str) -> AnyEngine:
        """Open the engine as a worker does, or the single file. Raises ModelError."""
        return open_engine(self.folder, provider=provider) if self.folder else OnnxEngine(self.onnx, provider)


def find_models(path: Path) -> list[ModelPath | ModelError]:
    """Return every model at a path, broken ones as ModelError. Raises ModelPathNotFound."""
    if path.is_file() and path.parent.name.isdigit() and (path.parent.parent / SPEC_FILE).exists():
        path = path.parent
    if path.is_file():
        return [ModelPath(path, None)]
    if not path.is_dir():
        raise ModelPathNotFound(f"{path}: no such file or folder")
    if path.name.isdigit() and ((path / ONNX_FILE).is_file() or (path.resolve().parent / SPEC_FILE).is_file()):
        return [_version_path(path)]
    if (path / SPEC_FILE).exists() or any((path / name / ONNX_FILE).is_file() for name in _version_numbers(path)):
        return [_model_path(listed) for listed in list_models(path.resolve().parent, [path.resolve().name])]
    models = list_models(path)
    if not models:
        message = f"{path}: contains no model; allowed: an .onnx file, a folder with {SPEC_FILE}, or a folder of these"
        raise ModelPathNotFound(message)
    return [_model_path(listed) for listed in models]


def find_single_model(path: Path) -> ModelPath:
    """Return the only model at a path. Raises ModelPathNotFound, and ModelError if its folder is broken."""
    (place, *others) = find_models(path)
    if others:
        raise ModelPathNotFound(f"{path}: contains {1 + len(others)} models; name one of them")
    if isinstance(place, ModelError):
        raise place
    return place


def _version_path(path: Path) -> ModelPath | ModelError:
    parent = path.resolve().parent
    place = _model_path(*list_models(parent.parent, [parent.name]))
    if isinstance(place, ModelError) or place.folder is None:
        return place
    onnx = parent / path.name / ONNX_FILE
    return _with_version_spec(place.folder._replace(version=path.name, onnx=onnx))


def _model_path(listed: ModelFolder | BrokenModel) -> ModelPath | ModelError:
    if isinstance(listed, BrokenModel):
        return ModelError(listed.name, None, listed.reason)
    return _with_version_spec(listed)


def _with_version_spec(folder: ModelFolder) -> ModelPath | ModelError:
    try:
        return ModelPath(folder.onnx, with_version_spec(folder))
    except ModelError as error:
        return error


def _version_numbers(path: Path) -> list[str]:
    return [child.name for child in path.iterdir() if child.name.isdigit()]
