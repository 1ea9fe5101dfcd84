"""Check that all files of a model are regular files inside its folder: links, names and external data.

A user who can write into one model's folder, by an upload or an archive, must not make a worker read other files.
"""

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from model_runtime.repository.host_memory import format_bytes, usable_bytes
from model_runtime.repository.onnx_file import ExternalData, read_external_data
from model_runtime.spec.model_toml import SPEC_FILE, ModelError


def check_folder(folder: Path, onnx: Path) -> None:
    """Check `model.toml` and the version's files. Raises ModelError. The folder itself may be a link."""
    version_spec = onnx.parent / SPEC_FILE
    specs = [version_spec] if version_spec.exists() or version_spec.is_symlink() else []
    for path in (folder / SPEC_FILE, onnx, *specs):
        check_file(folder, path)


def check_file(folder: Path, path: Path, key: str | None = None, named_in: Path | None = None) -> os.stat_result:
    """Check that a file is regular, in the folder, and has one name. `named_in`, `key`: where to report an error."""
    name = path.relative_to(folder) if named_in and path.is_relative_to(folder) else ""
    where = (named_in or path, key)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(*where, f"{name} leads outside of the folder {folder}; allowed: a file in it")
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(*where, f"{name} cannot be read: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(*where, f"{name} is not a regular file; allowed: a file, not a folder, a pipe or a device")
    if status.st_nlink > 1:
        reason = f"{name} has {status.st_nlink} hard links, which may lie outside of the folder"
        raise ModelError(*where, f"{reason}; allowed: a copy of the file")
    return status


def check_onnx(path: Path) -> None:
    """Check the ONNX file and its external data, without loading a runtime. Raises ModelError."""
    weights: dict[str, int] = {}
    for part in read_external_data(path):
        weights[part.location] = _check_part(path, part)
    needed = path.stat().st_size + sum(weights.values())
    if needed > usable_bytes():
        raise ModelError(
            path,
            None,
            f"its weights need {format_bytes(needed)} of memory; allowed here: {format_bytes(usable_bytes())}",
        )


def _check_part(path: Path, part: ExternalData) -> int:
    """Check one external data file and return its size in bytes."""
    where, folder = f"external data {part.location[:120]!r}", path.parent
    parts = PurePosixPath(part.location).parts
    absolute = PurePosixPath(part.location).is_absolute() or PureWindowsPath(part.location).is_absolute()
    if not parts or absolute or ".." in parts or "\\" in part.location or "\0" in part.location:
        raise ModelError(path, None, f"{where} leads outside of {folder}; allowed: the name of a file beside it")
    size = check_file(folder, folder / part.location, None, path).st_size
    if part.offset < 0 or part.length < 0 or part.offset + part.length > size:
        reason = f"{where} has {size} bytes, but a tensor needs bytes {part.offset} to {part.offset + part.length}"
        raise ModelError(path, None, f"{reason}; allowed: the complete file of the same export")
    return size
