"""Finds the model version to optimize, and opens it as a worker does: its engine and its task."""

import re
from pathlib import Path
from typing import NamedTuple

from cli.models.errors import ModelPathNotFound
from cli.models.model_paths import find_single_model
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.engine.open_engine import tensor_keys
from model_runtime.repository.path_checks import check_folder
from model_runtime.repository.repository import NAME, ModelFolder
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks import Task, attach_task


class LoadedVersion(NamedTuple):
    """A version that can be run."""

    folder: ModelFolder
    engine: OnnxEngine
    task: Task

    @property
    def takes_images(self) -> bool:
        return "image" in self.task.kinds

    @property
    def size_bytes(self) -> int:
        """The size of its graph and external weights, without .json and .toml files."""
        parts = self.folder.onnx.parent.iterdir()
        return sum(part.stat().st_size for part in parts if part.is_file() and part.suffix not in {".json", ".toml"})


def open_version(folder: ModelFolder, provider: str, threads: int) -> LoadedVersion:
    """Open a version. Raises ModelError."""
    check_folder(folder.path, folder.onnx)
    selected = folder.spec.provider if provider == "auto" else provider
    engine = OnnxEngine(folder.onnx, selected, threads or folder.spec.threads, keys=tensor_keys(folder))
    return LoadedVersion(folder, engine, attach_task(folder, engine))


def find_model_folder(name_or_path: str, models_dir: Path) -> ModelFolder:
    """Return the version to optimize. Raises ModelPathNotFound, and ModelError if it is a single file or broken."""
    path = Path(name_or_path)
    if NAME.fullmatch(name_or_path) and (models_dir / name_or_path).is_dir():
        path = models_dir / name_or_path
    if not path.exists() and re.fullmatch(r"[^/\\]+", name_or_path):
        message = f"no model {name_or_path[:80]!r} in {models_dir}, and no such path; allowed: a model name or folder"
        raise ModelPathNotFound(message)
    folder = find_single_model(path).folder
    if folder is None:
        reason = "is a single file; allowed: a model folder (model.toml and 1/model.onnx), which gets the new version"
        raise ModelError(path, None, reason)
    return folder
