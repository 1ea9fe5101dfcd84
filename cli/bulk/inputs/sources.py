"""What INPUT may be: folder, glob, archive, table, object store; always the same lines in the same order."""

import glob
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from cli.bulk.errors import UNREADABLE, BadItem, CannotRun
from cli.bulk.inputs import remote, tables
from cli.bulk.inputs.items import MAX_BYTES, InputSource, Item, file_item, invalid_item, too_large_error
from cli.bulk.inputs.junk_files import is_junk_file
from jobs.contract.image_formats import detect_format

ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
INPUT_KINDS: Final = "a folder, image files, a glob, .zip or .tar*, .jsonl, .csv or .parquet, or s3://BUCKET/PREFIX"


def open_source(given: Sequence[str], column: str | None, encoding: str | None = None) -> InputSource:
    """Look at INPUT, one or several files; raises CannotRun where it can not be read, or has no line at all."""
    if not given:
        raise CannotRun(f"which INPUT? There is no run of these results yet; allowed: {INPUT_KINDS}")
    source = _open(given[0], column, encoding) if len(given) == 1 else _file_source([Path(one) for one in given], None)
    if source.total == 0:
        raise CannotRun(f"{describe_input(given)} has nothing in it")
    return source


def describe_input(given: Sequence[str]) -> str:
    """Name an input for people."""
    return given[0] if len(given) == 1 else f"{len(given)} files from {given[0]} to {given[-1]}"


def _open(given: str, column: str | None, encoding: str | None) -> InputSource:
    if given.startswith("s3://"):
        return remote.list_objects(given)
    path = Path(given)
    if path.is_dir():
        return _file_source([path / name for name in _list_folder(path)], path)
    if not path.exists():
        return _expand_globs(given)
    if not os.access(path, os.R_OK):
        raise CannotRun(f"{given} can not be read: permission denied")
    if path.stat().st_size == 0:
        raise CannotRun(f"{given} is empty (0 bytes)")
    name = path.name.lower()
    try:
        if name.endswith(ARCHIVES):
            return _zip_source(path) if name.endswith(".zip") else _tar_source(path)
        if path.suffix.lower() in tables.SUFFIXES:
            return tables.open_table(path, column, encoding)
        with path.open("rb") as file:
            if detect_format(file.read(16)):
                return _file_source([path], None)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise CannotRun(f"{given} can not be read as what its name says: {error}") from error
    raise CannotRun(f"{given} is a file of no kind that can be taken; allowed: {INPUT_KINDS}")


def _expand_globs(given: str) -> InputSource:
    if not glob.has_magic(given):
        raise CannotRun(f"{given} does not exist; allowed: {INPUT_KINDS}")
    matching = glob.iglob(given, recursive=True)  # noqa: PTH207 - absolute too
    found = sorted(name for name in matching if not is_junk_file(name) and Path(name).is_file())
    if not found:
        raise CannotRun(f"no file matches {given}")
    return _file_source([Path(name) for name in found], None)


def _list_folder(folder: Path) -> list[str]:
    """List every file by its name within the folder, but litter and those whose name begins with a dot."""
    found: list[str] = []
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        within = os.path.relpath(at, folder)
        found += [os.path.normpath(os.path.join(within, name)) for name in files if not name.startswith(".")]  # noqa: PTH118 - a million of them
    return sorted(name for name in found if not is_junk_file(name))


def _file_source(paths: list[Path], root: Path | None) -> InputSource:
    def items() -> Iterator[Item]:
        for line, path in enumerate(paths, 1):
            yield file_item(line, str(path.relative_to(root) if root else path), path)

    return InputSource(items, len(paths))


def _zip_source(path: Path) -> InputSource:
    archive, lock = zipfile.ZipFile(path), threading.Lock()
    members = [one for one in archive.infolist() if not one.is_dir() and not is_junk_file(one.filename)]

    def read(member: zipfile.ZipInfo) -> bytes:
        try:
            with lock:
                return archive.read(member)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
            raise BadItem(UNREADABLE, f"{member.filename} can not be read from {path.name}: {error}") from error
        except Exception as error:  # a packer's own errors share no base
            raise BadItem(UNREADABLE, f"{member.filename} can not be unpacked: {error}") from error

    def items() -> Iterator[Item]:
        for line, member in enumerate(members, 1):
            size = member.file_size
            if size > MAX_BYTES:
                yield invalid_item(line, member.filename, too_large_error(member.filename, size))
            else:
                yield Item(line, member.filename, size, partial(read, member))

    return InputSource(items, len(members))


def _tar_source(path: Path) -> InputSource:
    """Read from front to back: an archive that is packed as a whole has no other way."""
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
                if member.size > MAX_BYTES:
                    yield invalid_item(line, member.name, too_large_error(member.name, member.size))
                else:
                    held = archive.extractfile(member)
                    data = held.read() if held else b""
                    yield Item(line, member.name, len(data), lambda data=data: data)  # type: ignore[misc]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CannotRun(f"{path} breaks off behind file {line}: {error}") from error
