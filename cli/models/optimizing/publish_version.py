"""A new version in a model's folder: made in a hidden one beside the others, and moved in by one rename."""

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
    """A hidden folder that is gone afterwards, however it ends; raises ModelError where nothing can be written."""
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder) as made:
            yield Path(made)
    except OSError as error:
        reason = (
            f"{error.strerror or error}: no version was written; allowed: a folder with room that can be written to"
        )
        raise ModelError(folder, None, reason) from error


def next_version_number(folder: Path) -> int:
    """Above everything that is there, were it only half a version."""
    there = [int(path.name) for path in folder.iterdir() if path.name.isascii() and path.name.isdigit()]
    return max(there, default=0) + 1


def publish(made: Path, folder: Path) -> Path:
    """Let the version appear, whole, under the next number; raises OSError."""
    for _ in range(_MAX_ATTEMPTS):
        place = folder / str(next_version_number(folder))
        try:
            made.rename(place)
        except FileExistsError:  # somebody was quicker
            continue
        except OSError:
            if place.exists():  # likewise: a folder that is not empty
                continue
            raise
        return place
    message = f"{folder}: {_MAX_ATTEMPTS} numbers were taken one after the other"
    raise OSError(message)
