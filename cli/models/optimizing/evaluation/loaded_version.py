"""A version opened as a worker opens it: its engine, and its task with the pipeline before and the answer after."""

import re
from pathlib import Path
from typing import NamedTuple

from cli.models import model_paths
from cli.models.model_paths import ModelPathNotFound
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.repository.path_checks import check_folder
from model_runtime.repository.repository import NAME, ModelFolder
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks import Task, load_task


class LoadedVersion(NamedTuple):
    """One version, ready to be asked."""

    folder: ModelFolder
    engine: OnnxEngine
    task: Task

    @property
    def takes_images(self) -> bool:
        return "image" in self.task.kinds

    @property
    def size_bytes(self) -> int:
        """Of all its files, the weights beside the graph among them, without what is said of it."""
        parts = self.folder.onnx.parent.iterdir()
        return sum(part.stat().st_size for part in parts if part.is_file() and part.suffix not in {".json", ".toml"})


def open_version(folder: ModelFolder, provider: str, threads: int) -> LoadedVersion:
    """Raises ModelError."""
    check_folder(folder.path, folder.onnx)
    asked = folder.spec.provider if provider == "auto" else provider
    engine = OnnxEngine(folder.onnx, asked, threads or folder.spec.threads)
    return LoadedVersion(folder, engine, load_task(folder.spec, folder.path, engine.inputs, engine.outputs))


def find_model_folder(name_or_path: str, models_dir: Path) -> ModelFolder:
    """The version meant; raises NothingThere, and ModelError where it can not be one of a repository."""
    path = Path(name_or_path)
    if NAME.fullmatch(name_or_path) and (models_dir / name_or_path).is_dir():
        path = models_dir / name_or_path
    if not path.exists() and re.fullmatch(r"[^/\\]+", name_or_path):
        message = f"no model {name_or_path[:80]!r} in {models_dir}, and no such path; allowed: a model's name or folder"
        raise ModelPathNotFound(message)
    found = model_paths.find_models(path)
    if len(found) > 1:
        message = f"{path}: {len(found)} models are there; name one"
        raise ModelPathNotFound(message)
    if isinstance(found[0], ModelError):
        raise found[0]
    if found[0].folder is None:
        reason = (
            "is a file by itself; allowed: a model's folder (model.toml beside 1/model.onnx), for a version is added"
        )
        raise ModelError(path, None, reason)
    return found[0].folder
