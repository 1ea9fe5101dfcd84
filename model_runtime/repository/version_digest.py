"""Hashes a model version's files and settings, independent of timestamps, to compare them between hosts.

It covers the version's folder, what `model.toml` says, and the files of the model's folder that it names. A task or an
engine of the model's own may read any file beside it, so then all of them count. What only says how one machine runs
the model, and the profile that was measured there, does not count.
"""

import hashlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

from model_runtime.profiling import profile_store
from model_runtime.repository.repository import ModelFolder, with_version_spec
from model_runtime.spec.model_toml import SPEC_FILE

LENGTH: Final = 16
MAX_FILES: Final = 10_000  # of one version: as many as are looked at for changes
_OF_ONE_MACHINE: Final = {"version", "provider", "threads", "max_batch", "buckets", "max_wait_ms"}


def compute_digest(folder: ModelFolder) -> str:
    """Read all that counts, and sum it up; blocks. Raises ModelError, OSError."""
    spec = with_version_spec(folder).spec
    # Without defaults: a release with another key, or another default, has the same digest of the same files.
    said = spec.model_dump(exclude=_OF_ONE_MACHINE, exclude_defaults=True, warnings=False)
    total = hashlib.sha256(repr(sorted(said.items())).encode())
    has_own_code = ".py:" in f"{spec.task} {spec.engine}"
    names = {spec.classification.labels, spec.detection.labels}
    beside = [path for path in folder.path.iterdir() if has_own_code or path.name in names]
    for path in sorted([*_files(beside), *_files(folder.onnx.parent.rglob("*"))]):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder.path).as_posix()}\0{content}\n".encode())
    return total.hexdigest()[:LENGTH]


def _files(paths: Iterable[Path]) -> list[Path]:
    """Leave out folders, hidden files, profiles, and `model.toml`, whose words count and not its comments."""
    left_out = {profile_store.PROFILE_FILE, SPEC_FILE}
    seen = (one for one in paths if one.name not in left_out and not one.name.startswith((".", "__")) and one.is_file())
    return list(islice(seen, MAX_FILES))
