"""List the models of a directory and choose the version of each; an invalid folder does not affect the others.

Reads names and `model.toml`, and opens no ONNX file.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from model_runtime.repository.path_checks import check_file
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec, read_spec

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ONNX_FILE: Final = "model.onnx"


class ModelFolder(NamedTuple):
    """One model on disk: `path` is its folder, `onnx` the file of the version to serve.

    `spec` is the model's; `with_version_spec` applies the version's. With a custom engine the file `onnx` may not
    exist, as the engine reads the version's folder.
    """

    name: str
    path: Path
    version: str
    onnx: Path
    spec: ModelSpec


class BrokenModel(NamedTuple):
    """A model folder that cannot be served; `reason` is one line for the operator."""

    name: str
    reason: str


def list_models(models_dir: Path, only: Collection[str] = ()) -> list[ModelFolder | BrokenModel]:
    """List models by name, or those of `only` if not empty. Raises ModelError if the directory cannot be read."""
    try:
        folders = {path.name: path for path in sorted(models_dir.iterdir()) if _is_model(path)}
    except OSError as error:
        raise ModelError(models_dir, None, f"the models directory cannot be read: {error.strerror}") from error
    absent = f"no such model in {models_dir}; allowed: {', '.join(folders) or 'none'}"
    names = sorted(set(only)) if only else list(folders)
    return [_read(folders[name]) if name in folders else BrokenModel(name, absent) for name in names]


def _is_model(path: Path) -> bool:
    """Return true for a folder with a `model.toml`, or with an ONNX version but no `model.toml`."""
    if path.name.startswith("."):
        return False
    try:
        return path.is_dir() and ((path / SPEC_FILE).exists() or bool(list_versions(path, ONNX_FILE)))
    except OSError:  # not readable: `_read` reports it
        return True


def _read(folder: Path) -> ModelFolder | BrokenModel:
    name = folder.name
    if not NAME.fullmatch(name):
        allowed = "1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit"
        return BrokenModel(name, f"{folder}: the folder's name is not a valid model name; allowed: {allowed}")
    try:
        spec = read_spec(folder)
        version = _choose_version(folder, spec)
    except ModelError as error:
        return BrokenModel(name, str(error))
    except OSError as error:
        return BrokenModel(name, f"{folder}: cannot be read: {error.strerror}")
    return ModelFolder(name, folder, version, folder / version / ONNX_FILE, spec)


def with_version_spec(folder: ModelFolder) -> ModelFolder:
    """Return the folder with `spec` overridden by the version's `model.toml`, if any. Raises ModelError."""
    version_spec = folder.onnx.parent / SPEC_FILE
    if version_spec.exists() or version_spec.is_symlink():
        check_file(folder.path, version_spec)
    return folder._replace(spec=read_spec(folder.path, folder.version))


def list_versions(folder: Path, file: str | None) -> list[str]:
    """Return the numeric folders that contain `file`, or anything if `file` is None, lowest first."""
    numeric = (path.name for path in folder.iterdir() if path.name.isascii() and path.name.isdigit())
    return sorted((name for name in numeric if _has(folder / name, file)), key=int)


def required_file(spec: ModelSpec) -> str | None:
    """Return the name of the file that a version must contain; None if a custom engine decides."""
    return ONNX_FILE if spec.engine is None else None


def _has(version: Path, file: str | None) -> bool:
    if file is not None:
        return (version / file).is_file()
    return version.is_dir() and any(version.iterdir())


def _choose_version(folder: Path, spec: ModelSpec) -> str:
    needed = required_file(spec)
    versions = list_versions(folder, needed)
    if not versions:
        what = f"the model in it: 1/{needed}" if needed else "the files of its engine in it, such as 1/weights.npz"
        raise ModelError(folder, None, f"no version; allowed: a numeric folder with {what}")
    if spec.version is None:
        return versions[-1]
    if spec.version not in versions:
        file = folder / SPEC_FILE
        raise ModelError(file, "version", f"there is no {spec.version}/{needed or ''}; allowed: {', '.join(versions)}")
    return spec.version
