"""Takes snapshots of the models folder: versions, their fingerprints, which is best; checks that one can be served.

Reads names, sizes and times, and `model.toml`. Does not open ONNX files.
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
from model_runtime.spec.text import POOLING_FOLDER

MAX_FILES: Final = 10_000  # files of one version that count; external data may be many files


class ModelVersions(NamedTuple):
    """A model in the folder. `fingerprints`: version → fingerprint of its files."""

    choice: ModelFolder
    fingerprints: Mapping[str, str]

    def folder(self, version: str) -> ModelFolder:
        """Return the folder of one version, as the loader needs it."""
        return self.choice._replace(version=version, onnx=self.choice.path / version / ONNX_FILE)

    def best(self, bad: Collection[str]) -> list[str]:
        """Return the versions to serve, best first: the one that model.toml pins, or the highest."""
        if self.choice.spec.version is not None and self.choice.version not in bad:
            return [self.choice.version]
        return [version for version in reversed([*self.fingerprints]) if version not in bad] or [self.choice.version]


class FolderSnapshot(NamedTuple):
    """All models by name, errors of models that cannot be read, and which of these have no folder."""

    models: Mapping[str, ModelVersions]
    broken: Mapping[str, str]
    absent: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        return not self.models and self.absent == self.broken.keys()


def take_snapshot(models_dir: Path, chosen: Collection[str]) -> FolderSnapshot:
    """Read the models folder; blocks. Raises ModelError if the folder as a whole cannot be read."""
    models, broken = {}, {}
    for model in list_models(models_dir, chosen):
        if isinstance(model, BrokenModel):
            broken[model.name] = model.reason
            continue
        try:
            fingerprints = {v: _fingerprint(model, v) for v in list_versions(model.path, required_file(model.spec))}
            models[model.name] = ModelVersions(model, fingerprints)
        except OSError as error:  # it was removed meanwhile
            broken[model.name] = f"{model.path}: cannot be read: {error.strerror}"
    absent = frozenset(name for name in broken if not (models_dir / name).exists())
    if absent and not models_dir.exists():  # then the whole folder was unmounted meanwhile, not these models removed
        list_models(models_dir, chosen)
    return FolderSnapshot(models, broken, absent)


def check_models_dir(models_dir: Path, chosen: Collection[str]) -> None:
    """Raise ModelError, with the setting to change, if there is no model to serve."""
    try:
        snapshot = take_snapshot(models_dir, chosen)
    except ModelError as error:
        raise ModelError(f"JITNEY_MODELS_DIR={models_dir}", None, str(error)) from error
    if not snapshot.is_empty:
        return
    if snapshot.absent:
        raise ModelError(f"JITNEY_SERVE_MODELS={','.join(chosen)}", None, snapshot.broken[min(snapshot.absent)])
    reason = f"no models in {models_dir}: a model is a folder with model.toml and 1/model.onnx"
    raise ModelError(f"JITNEY_MODELS_DIR={models_dir}", None, reason)


def _fingerprint(folder: ModelFolder, version: str) -> str:
    """Return a fingerprint of a version: model.toml without its `version` key, and the state of all its files."""
    spec = folder.spec.model_copy(update={"version": None})
    deep = (folder.path / version, folder.path / POOLING_FOLDER)
    files = [*_files(folder.path, deep=False), *(file for path in deep for file in _files(path, deep=True))]
    return sha256(repr((spec, sorted(files))).encode()).hexdigest()[:16]


def _files(folder: Path, *, deep: bool) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, inode, time and size of files, without hidden ones, profiles and the model's `model.toml`."""
    paths = folder.rglob("*") if deep else folder.iterdir()
    for count, path in enumerate(paths):
        if count > MAX_FILES:
            return
        # Profiles are not part of a model, and the content of model.toml is fingerprinted without its comments.
        is_excluded = path.name == profile_store.PROFILE_FILE or (path.name == SPEC_FILE and not deep)
        if not is_excluded and not path.name.startswith((".", "__")) and path.is_file():
            stat = path.stat()
            yield str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size
