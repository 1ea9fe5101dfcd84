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
from cli.bulk.inputs.items import MAX_BYTES, Item, Source, bad, of_file, too_large
from cli.bulk.inputs.junk_files import is_litter
from jobs.contract.image_formats import sniff

ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
WHAT: Final = "a folder, image files, a glob, .zip or .tar*, .jsonl, .csv or .parquet, or s3://BUCKET/PREFIX"


def open_source(given: Sequence[str], column: str | None, encoding: str | None = None) -> Source:
    """Look at INPUT, one or several files; raises CannotRun where it can not be read, or has no line at all."""
    if not given:
        raise CannotRun(f"which INPUT? There is no run of these results yet; allowed: {WHAT}")
    source = _open(given[0], column, encoding) if len(given) == 1 else _files([Path(one) for one in given], None)
    if source.total == 0:
        raise CannotRun(f"{named(given)} has nothing in it")
    return source


def named(given: Sequence[str]) -> str:
    """Name an input for people."""
    return given[0] if len(given) == 1 else f"{len(given)} files from {given[0]} to {given[-1]}"


def _open(given: str, column: str | None, encoding: str | None) -> Source:
    if given.startswith("s3://"):
        return remote.objects(given)
    path = Path(given)
    if path.is_dir():
        return _files([path / name for name in _below(path)], path)
    if not path.exists():
        return _matching(given)
    if not os.access(path, os.R_OK):
        raise CannotRun(f"{given} can not be read: permission denied")
    if path.stat().st_size == 0:
        raise CannotRun(f"{given} is empty (0 bytes)")
    name = path.name.lower()
    try:
        if name.endswith(ARCHIVES):
            return _zip(path) if name.endswith(".zip") else _tar(path)
        if path.suffix.lower() in tables.SUFFIXES:
            return tables.open_table(path, column, encoding)
        with path.open("rb") as file:
            if sniff(file.read(16)):
                return _files([path], None)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise CannotRun(f"{given} can not be read as what its name says: {error}") from error
    raise CannotRun(f"{given} is a file of no kind that can be taken; allowed: {WHAT}")


def _matching(given: str) -> Source:
    if not glob.has_magic(given):
        raise CannotRun(f"{given} does not exist; allowed: {WHAT}")
    matching = glob.iglob(given, recursive=True)  # noqa: PTH207 - absolute too
    found = sorted(name for name in matching if not is_litter(name) and Path(name).is_file())
    if not found:
        raise CannotRun(f"no file matches {given}")
    return _files([Path(name) for name in found], None)


def _below(folder: Path) -> list[str]:
    """List every file by its name within the folder, but litter and those whose name begins with a dot."""
    found: list[str] = []
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        within = os.path.relpath(at, folder)
        found += [os.path.normpath(os.path.join(within, name)) for name in files if not name.startswith(".")]  # noqa: PTH118 - a million of them
    return sorted(name for name in found if not is_litter(name))


def _files(paths: list[Path], root: Path | None) -> Source:
    def items() -> Iterator[Item]:
        for line, path in enumerate(paths, 1):
            yield of_file(line, str(path.relative_to(root) if root else path), path)

    return Source(items, len(paths))


def _zip(path: Path) -> Source:
    archive, lock = zipfile.ZipFile(path), threading.Lock()
    members = [one for one in archive.infolist() if not one.is_dir() and not is_litter(one.filename)]

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
                yield bad(line, member.filename, too_large(member.filename, size))
            else:
                yield Item(line, member.filename, size, partial(read, member))

    return Source(items, len(members))


def _tar(path: Path) -> Source:
    """Read from front to back: an archive that is packed as a whole has no other way."""
    with tarfile.open(path) as archive:
        if archive.next() is None:
            return Source(lambda: iter(()), 0)
    return Source(partial(_members, path), None)


def _members(path: Path) -> Iterator[Item]:
    try:
        with tarfile.open(path, "r|*") as archive:
            line = 0
            for member in archive:
                if not member.isfile() or is_litter(member.name):
                    continue
                line += 1
                if member.size > MAX_BYTES:
                    yield bad(line, member.name, too_large(member.name, member.size))
                else:
                    held = archive.extractfile(member)
                    data = held.read() if held else b""
                    yield Item(line, member.name, len(data), lambda data=data: data)  # type: ignore[misc]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CannotRun(f"{path} breaks off behind file {line}: {error}") from error
