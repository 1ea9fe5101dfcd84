"""No path leaves a model's folder: links, names and external data are looked at before anything else opens the files.

Who may write into one model's folder (an upload, an unpacked archive) must not make a worker read what is not theirs.
"""

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from model_runtime.repository.host_memory import format_bytes, usable_bytes
from model_runtime.repository.onnx_external_data import ExternalData, read_external_data
from model_runtime.spec.model_toml import SPEC_FILE, ModelError


def check_folder(folder: Path, onnx: Path) -> None:
    """Its `model.toml` and the version's files; raises ModelError. The folder itself may be a link: the operator's."""
    own = onnx.parent / SPEC_FILE
    for path in (folder / SPEC_FILE, onnx, *([own] if own.exists() or own.is_symlink() else [])):
        check_file(folder, path)


def check_file(folder: Path, path: Path, key: str | None = None, named_in: Path | None = None) -> os.stat_result:
    """A file that is the folder's own: regular, inside, under one name. `said_in`, `key`: where it was named."""
    name = path.relative_to(folder) if named_in and path.is_relative_to(folder) else ""
    where = (named_in or path, key)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(*where, f"{name} leads outside of the folder {folder}; allowed: a file in it")
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(*where, f"{name} can not be read: {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(*where, f"{name} is not a regular file; allowed: a file, not a folder, a pipe or a device")
    if found.st_nlink > 1:
        reason = f"{name} has {found.st_nlink} names on this disk (hard links), the others outside of what is checked"
        raise ModelError(*where, f"{reason}; allowed: a copy of its own")
    return found


def check_onnx(path: Path) -> None:
    """The ONNX file's own form, and every file it points at; raises ModelError. Opens no runtime."""
    weights: dict[str, int] = {}
    for part in read_external_data(path):
        weights[part.location] = _check_part(path, part)
    needed = path.stat().st_size + sum(weights.values())
    if needed > usable_bytes():
        raise ModelError(
            path, None, f"its weights alone are {format_bytes(needed)}; allowed here: {format_bytes(usable_bytes())}"
        )


def _check_part(path: Path, part: ExternalData) -> int:
    """The size of the file that a tensor's bytes lie in."""
    where, folder = f"external data {part.location[:120]!r}", path.parent
    parts = PurePosixPath(part.location).parts
    absolute = PurePosixPath(part.location).is_absolute() or PureWindowsPath(part.location).is_absolute()
    if not parts or absolute or ".." in parts or "\\" in part.location or "\0" in part.location:
        raise ModelError(path, None, f"{where} leads outside of {folder}; allowed: the name of a file beside it")
    size = check_file(folder, folder / part.location, None, path).st_size
    if part.offset < 0 or part.length < 0 or part.offset + part.length > size:
        reason = f"{where} has {size} bytes, but a tensor's lie at {part.offset} to {part.offset + part.length}"
        raise ModelError(path, None, f"{reason}; allowed: the file that was exported with it, whole")
    return size
