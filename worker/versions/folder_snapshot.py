"""What lies in the folder of models: each model's versions, and by what one sees that something has changed.

Reads names, sizes and times, and `model.toml`; opens no ONNX file.
"""

from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from model_runtime.profiling import profile_store
from model_runtime.repository.repository import (
    ONNX_FILE,
    BrokenModel,
    ModelFolder,
    list_models,
    list_versions,
    required_file,
)
from model_runtime.spec.model_toml import SPEC_FILE, ModelError

MAX_FILES: Final = 10_000  # of one version: external data may be many, and a folder of everything is none


class ModelVersions(NamedTuple):
    """A model in the folder. `marks`: its versions, and for each what its files look like from outside."""

    choice: ModelFolder
    fingerprints: Mapping[str, str]

    def folder(self, version: str) -> ModelFolder:
        """Give one of its versions, as it is loaded."""
        return self.choice._replace(version=version, onnx=self.choice.path / version / ONNX_FILE)

    def best(self, bad: Collection[str]) -> list[str]:
        """List the versions that the folder would have serve, the best first: what model.toml pins, or the highest."""
        if self.choice.spec.version is not None and self.choice.version not in bad:
            return [self.choice.version]
        return [one for one in reversed([*self.fingerprints]) if one not in bad] or [self.choice.version]


class FolderSnapshot(NamedTuple):
    """All models by name, why others can not be read, and which of these have no folder at all."""

    models: Mapping[str, ModelVersions]
    broken: Mapping[str, str]
    absent: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        return not self.models and self.absent == self.broken.keys()


def take_snapshot(models_dir: Path, chosen: Collection[str]) -> FolderSnapshot:
    """Look once; blocks. Raises ModelError where the folder as a whole can not be read."""
    models, broken = {}, {}
    for found in list_models(models_dir, chosen):
        if isinstance(found, BrokenModel):
            broken[found.name] = found.reason
            continue
        try:
            models[found.name] = ModelVersions(
                found, {one: _fingerprint(found, one) for one in list_versions(found.path, required_file(found.spec))}
            )
        except OSError as error:  # it went while we looked
            broken[found.name] = f"{found.path}: can not be read: {error.strerror}"
    return FolderSnapshot(models, broken, frozenset(name for name in broken if not (models_dir / name).exists()))


def check_models_dir(models_dir: Path, chosen: Collection[str]) -> None:
    """Raise ModelError where there is nothing to serve at all, which names the setting that is wrong."""
    try:
        found = take_snapshot(models_dir, chosen)
    except ModelError as error:
        raise ModelError(f"JITNEY_MODELS_DIR={models_dir}", None, str(error)) from error
    if not found.is_empty:
        return
    if found.absent:
        raise ModelError(f"JITNEY_SERVE_MODELS={','.join(chosen)}", None, found.broken[min(found.absent)])
    reason = f"no models in {models_dir}: a model is a folder with model.toml and 1/model.onnx"
    raise ModelError(f"JITNEY_MODELS_DIR={models_dir}", None, reason)


def _fingerprint(folder: ModelFolder, version: str) -> str:
    """Sum up what a version is made of: what model.toml says, but for which version is served, and all its files."""
    said = folder.spec.model_copy(update={"version": None})
    files = [*_files(folder.path, deep=False), *_files(folder.path / version, deep=True)]
    return sha256(repr((said, sorted(files))).encode()).hexdigest()[:16]


def _files(folder: Path, *, deep: bool) -> Iterator[tuple[str, int, int, int]]:
    """List files with their number, time and size; the model's `model.toml`, profiles and hidden ones are left out."""
    found = folder.rglob("*") if deep else folder.iterdir()
    for count, path in enumerate(found):
        if count > MAX_FILES:
            return
        # Of it, and no part of it: profiles, and model.toml, whose words count and not its comments.
        is_said = path.name == profile_store.PROFILE_FILE or (path.name == SPEC_FILE and not deep)
        if not is_said and not path.name.startswith((".", "__")) and path.is_file():
            stat = path.stat()
            yield str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size
