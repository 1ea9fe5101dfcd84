"""Opens an INPUT: folder, files, glob, archive, table or object store. The order of its lines is stable."""

import glob
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from cli.bulk.errors import UNREADABLE, BadItem, CannotRun
from cli.bulk.inputs import remote, tables
from cli.bulk.inputs.items import MAX_BYTES, InputSource, Item, file_item, is_junk_file, sized_item
from jobs.contract import audio_formats, image_formats

ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
INPUT_KINDS: Final = (
    "a folder, image or audio files, a glob, .zip or .tar*, .jsonl, .csv or .parquet, or s3://BUCKET/PREFIX"
)


def open_source(
    inputs: Sequence[str],
    column: str | None,
    encoding: str | None = None,
    features: Sequence[Mapping[str, str]] = (),
) -> InputSource:
    """Open INPUT, which is one source or several files. Raises CannotRun if it is unreadable or empty.

    `features`: as for `tables.open_table`.
    """
    if not inputs:
        raise CannotRun(f"give an INPUT: these results have no run to resume; allowed: {INPUT_KINDS}")
    is_single = len(inputs) == 1
    source = (
        _open(inputs[0], column, encoding, features)
        if is_single
        else _file_source([Path(name) for name in inputs], None)
    )
    if source.total == 0:
        raise CannotRun(f"{describe_input(inputs)} contains no input")
    return source


def describe_input(inputs: Sequence[str]) -> str:
    return inputs[0] if len(inputs) == 1 else f"{len(inputs)} files from {inputs[0]} to {inputs[-1]}"


def _open(text: str, column: str | None, encoding: str | None, features: Sequence[Mapping[str, str]]) -> InputSource:
    if text.startswith("s3://"):
        return remote.list_objects(text)
    path = Path(text)
    if path.is_dir():
        return _file_source([path / name for name in _list_folder(path)], path)
    if not path.exists():
        return _expand_globs(text)
    if not os.access(path, os.R_OK):
        raise CannotRun(f"cannot read {text}: permission denied")
    if path.stat().st_size == 0:
        raise CannotRun(f"{text} is empty (0 bytes)")
    name = path.name.lower()
    try:
        if name.endswith(ARCHIVES):
            return _zip_source(path) if name.endswith(".zip") else _tar_source(path)
        if path.suffix.lower() in tables.SUFFIXES:
            return tables.open_table(path, column, encoding, features)
        with path.open("rb") as file:
            head = file.read(image_formats.HEAD_BYTES)
            if image_formats.detect_format(head) or audio_formats.detect_format(head):
                return _file_source([path], None)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise CannotRun(f"{text} is not what its suffix says: {error}") from error
    raise CannotRun(f"{text} is not a supported kind of file; allowed: {INPUT_KINDS}")


def _expand_globs(text: str) -> InputSource:
    if not glob.has_magic(text):
        raise CannotRun(f"{text} does not exist; allowed: {INPUT_KINDS}")
    matching = glob.iglob(text, recursive=True)  # noqa: PTH207 - the pattern may be absolute
    names = sorted(name for name in matching if not is_junk_file(name) and Path(name).is_file())
    if not names:
        raise CannotRun(f"no file matches {text}")
    return _file_source([Path(name) for name in names], None)


def _list_folder(folder: Path) -> list[str]:
    """Return the relative paths of all files, sorted, without junk files and hidden ones."""
    paths: list[str] = []
    for current, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.relpath(current, folder)
        paths += [os.path.normpath(os.path.join(prefix, name)) for name in files if not name.startswith(".")]  # noqa: PTH118 - fast
    return sorted(path for path in paths if not is_junk_file(path))


def _file_source(paths: list[Path], root: Path | None) -> InputSource:
    def items() -> Iterator[Item]:
        for line, path in enumerate(paths, 1):
            yield file_item(line, str(path.relative_to(root) if root else path), path)

    return InputSource(items, len(paths))


def _zip_source(path: Path) -> InputSource:
    archive, lock = zipfile.ZipFile(path), threading.Lock()
    members = [member for member in archive.infolist() if not member.is_dir() and not is_junk_file(member.filename)]

    def read(member: zipfile.ZipInfo) -> bytes:
        try:
            with lock:
                return archive.read(member)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
            raise BadItem(UNREADABLE, f"cannot read {member.filename} from {path.name}: {error}") from error
        except Exception as error:  # decompressors raise errors without a common base
            raise BadItem(UNREADABLE, f"cannot unpack {member.filename}: {error}") from error

    def items() -> Iterator[Item]:
        for line, member in enumerate(members, 1):
            yield sized_item(line, member.filename, member.file_size, partial(read, member))

    return InputSource(items, len(members))


def _tar_source(path: Path) -> InputSource:
    """Return a source that reads the archive sequentially: a compressed tar allows no other access."""
    with tarfile.open(path) as archive:
        if archive.next() is None:
            return InputSource(lambda: iter(()), 0)
    return InputSource(partial(_members, path), None)


def _members(path: Path) -> Iterator[Item]:
    try:
        with tarfile.open(path, "r|*") as archive:
            line = 0
            for member in archive:
                if not member.isfile() or is_junk_file(member.name):
                    continue
                line += 1
                file = archive.extractfile(member) if member.size <= MAX_BYTES else None
                data = file.read() if file else b""
                yield sized_item(line, member.name, member.size, lambda data=data: data)  # type: ignore[misc]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CannotRun(f"{path} is truncated or broken after file {line}: {error}") from error
