"""Which models lie in a directory, and which version of each is served; one bad folder never hides the others.

Reads names and `model.toml`; opens no ONNX file.
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
    """One model as it lies on disk: `path` is its folder, `onnx` the file of the version to serve.

    `spec` is the model's: a version may differ (`with_own_spec`).
    With an engine of its own, what that file's folder has in it is the engine's affair, and the file need not be there.
    """

    name: str
    path: Path
    version: str
    onnx: Path
    spec: ModelSpec


class BrokenModel(NamedTuple):
    """A folder that looks like a model and can not be served; `reason` is one line for the operator."""

    name: str
    reason: str


def list_models(models_dir: Path, only: Collection[str] = ()) -> list[ModelFolder | BrokenModel]:
    """The models of a directory by name, those of `only` where it names any; raises ModelError without a directory."""
    try:
        folders = {path.name: path for path in sorted(models_dir.iterdir()) if _is_model(path)}
    except OSError as error:
        raise ModelError(models_dir, None, f"the models directory can not be read: {error.strerror}") from error
    absent = f"no such model in {models_dir}; there are: {', '.join(folders) or 'none'}"
    wanted = sorted(set(only)) if only else list(folders)
    return [_read(folders[name]) if name in folders else BrokenModel(name, absent) for name in wanted]


def _is_model(path: Path) -> bool:
    """A folder with a `model.toml`, or one that only forgot it."""
    if path.name.startswith("."):
        return False
    try:
        return path.is_dir() and ((path / SPEC_FILE).exists() or bool(list_versions(path, ONNX_FILE)))
    except OSError:  # not readable: `_read` says so
        return True


def _read(folder: Path) -> ModelFolder | BrokenModel:
    name = folder.name
    if not NAME.fullmatch(name):
        allowed = "1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit"
        return BrokenModel(name, f"{folder}: the folder's name is the model's; allowed: {allowed}")
    try:
        spec = read_spec(folder)
        version = _choose_version(folder, spec)
    except ModelError as error:
        return BrokenModel(name, str(error))
    except OSError as error:
        return BrokenModel(name, f"{folder}: can not be read: {error.strerror}")
    return ModelFolder(name, folder, version, folder / version / ONNX_FILE, spec)


def with_version_spec(folder: ModelFolder) -> ModelFolder:
    """The version as it is to be run: with what its own `model.toml` says instead; raises ModelError."""
    own = folder.onnx.parent / SPEC_FILE
    if own.exists() or own.is_symlink():
        check_file(folder.path, own)
    return folder._replace(spec=read_spec(folder.path, folder.version))


def list_versions(folder: Path, file: str | None) -> list[str]:
    """Names of the numeric folders with such a file in them, or with anything where `file` is None, lowest first."""
    numeric = (path.name for path in folder.iterdir() if path.name.isascii() and path.name.isdigit())
    return sorted((name for name in numeric if _has(folder / name, file)), key=int)


def required_file(spec: ModelSpec) -> str | None:
    """What a version's folder must have in it, by name."""
    return ONNX_FILE if spec.engine is None else None


def _has(version: Path, file: str | None) -> bool:
    if file is not None:
        return (version / file).is_file()
    return version.is_dir() and any(version.iterdir())


def _choose_version(folder: Path, spec: ModelSpec) -> str:
    needed = required_file(spec)
    found = list_versions(folder, needed)
    if not found:
        what = f"the model in it: 1/{needed}" if needed else "what its engine reads in it, such as 1/weights.npz"
        raise ModelError(folder, None, f"no version; allowed: a numeric folder with {what}")
    if spec.version is None:
        return found[-1]
    if spec.version not in found:
        file = folder / SPEC_FILE
        raise ModelError(file, "version", f"there is no {spec.version}/{needed or ''}; allowed: {', '.join(found)}")
    return spec.version
