"""Hash a model version's files and settings, independent of timestamps, to compare versions between hosts.

The digest covers the version's folder, the settings of `model.toml`, and the files that they name. For a custom task or
engine it covers all files of the model's folder. It ignores profiles, and settings of one machine such as `threads`.
"""

import hashlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

from model_runtime.profiling import profile_store
from model_runtime.repository.repository import ModelFolder, with_version_spec
from model_runtime.spec.model_toml import SPEC_FILE
from model_runtime.spec.text import POOLING_FILE, TEXT_FILES, TEXT_TASKS

LENGTH: Final = 16
MAX_FILES: Final = 10_000  # of one version; the same limit as for detecting changes
_MACHINE_SETTINGS: Final = {"version", "provider", "threads", "max_batch", "buckets", "max_wait_ms"}


def compute_digest(folder: ModelFolder) -> str:
    """Read all files and return the digest. Blocks. Raises ModelError, OSError."""
    spec = with_version_spec(folder).spec
    # Without defaults, so that a release that adds a key or changes a default computes the same digest.
    settings = spec.model_dump(exclude=_MACHINE_SETTINGS, exclude_defaults=True, warnings=False)
    total = hashlib.sha256(repr(sorted(settings.items())).encode())
    has_custom_code = ".py:" in f"{spec.task} {spec.engine}"
    sections = (spec.classification, spec.detection, spec.segmentation, spec.tabular, spec.text)
    names = {section.labels for section in sections}
    has_text = has_custom_code or spec.task in TEXT_TASKS
    names |= {*TEXT_FILES} if has_text else set()
    beside = [path for path in folder.path.iterdir() if has_custom_code or path.name in names]
    beside += [folder.path / POOLING_FILE] if has_text else []
    for path in sorted([*_files(beside), *_files(folder.onnx.parent.rglob("*"))]):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder.path).as_posix()}\0{content}\n".encode())
    return total.hexdigest()[:LENGTH]


def _files(paths: Iterable[Path]) -> list[Path]:
    """Keep files only, without hidden files, profiles and `model.toml`, whose parsed settings are hashed instead."""
    excluded = {profile_store.PROFILE_FILE, SPEC_FILE}
    named = (path for path in paths if path.name not in excluded and not path.name.startswith((".", "__")))
    return list(islice((path for path in named if path.is_file()), MAX_FILES))
