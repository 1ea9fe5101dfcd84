"""Publishes a new version in a model folder: builds it in a hidden folder and renames that."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from model_runtime.spec.model_toml import ModelError

PREFIX: Final = ".optimizing-"
RECORD_FILE: Final = "optimized.json"
_MAX_ATTEMPTS: Final = 100


@contextlib.contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Create a hidden folder, and remove it at the end. Raises ModelError if it cannot be written."""
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder) as name:
            yield Path(name)
    except OSError as error:
        reason = f"{error.strerror or error}: no version was written; allowed: a writable folder with free space"
        raise ModelError(folder, None, reason) from error


def next_version_number(folder: Path) -> int:
    """Return a number above those of all existing version folders, even incomplete ones."""
    numbers = [int(path.name) for path in folder.iterdir() if path.name.isascii() and path.name.isdigit()]
    return max(numbers, default=0) + 1


def publish(staged: Path, folder: Path) -> Path:
    """Move a version to the next free number, atomically; return its folder. Raises OSError."""
    for _ in range(_MAX_ATTEMPTS):
        place = folder / str(next_version_number(folder))
        try:
            staged.rename(place)
        except FileExistsError:  # another process took the number
            continue
        except OSError:
            if place.exists():  # as above: the target folder is not empty
                continue
            raise
        return place
    raise OSError(f"{folder}: no free version number after {_MAX_ATTEMPTS} attempts")
