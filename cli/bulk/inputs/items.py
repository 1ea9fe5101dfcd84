"""Items and input sources: the lines of a bulk run and how to read their bytes; which files of a folder are junk."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from cli.bulk.errors import TOO_LARGE, UNREADABLE, BadItem
from jobs.contract.base64_reader import read_base64_or_url
from jobs.contract.errors import Refused

# A gateway accepts bodies of 32 MiB (JITNEY_MAX_BODY_BYTES); base64 adds a third.
MAX_BYTES: Final = 24 << 20
_JUNK_DIRS: Final = frozenset({"__macosx", ".appledouble", ".trashes", ".spotlight-v100", "$recycle.bin", "@eadir"})
_JUNK_FILES: Final = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".localized"})


class Item(NamedTuple):
    """A line of the input; `line` counts from 1. `size`: its bytes, or an estimate; `id`: its id in the input.

    `read` returns the bytes or raises BadItem; it is unused if `job`, a job for POST /v1/jobs, is set.
    """

    line: int
    name: str
    size: int
    read: Callable[[], bytes]
    id: str | None = None
    job: Mapping[str, Any] | None = None


class InputSource(NamedTuple):
    """An opened INPUT. `total`: the number of lines, if known. `is_remote`: reading it needs the network."""

    items: Callable[[], Iterator[Item]]
    total: int | None
    is_remote: bool = False


def invalid_item(line: int, name: str, error: BadItem, item_id: str | None = None) -> Item:
    """Return an item whose `read` raises this error."""

    def read() -> bytes:
        raise error

    return Item(line, name, 0, read, item_id)


def sized_item(line: int, name: str, size: int, read: Callable[[], bytes], item_id: str | None = None) -> Item:
    """Return an item of known size, whose `read` raises an error if it exceeds the limit of a job."""
    if size > MAX_BYTES:
        return invalid_item(line, name, too_large_error(name, size), item_id)
    return Item(line, name, size, read, item_id)


def file_item(line: int, name: str, path: Path, item_id: str | None = None) -> Item:
    try:
        size = path.stat().st_size
    except OSError as error:
        return invalid_item(line, name, _unreadable_error(name, error), item_id)

    def read() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise _unreadable_error(name, error) from error

    return sized_item(line, name, size, read, item_id)


def too_large_error(name: str, size: int) -> BadItem:
    """Return the error of a line that exceeds the limit of a job."""
    return BadItem(TOO_LARGE, f"{name} has {size} bytes; the limit is {MAX_BYTES}")


def decode_base64(text: str) -> bytes:
    """Decode base64 or a data: URL. Raises BadItem."""
    try:
        return read_base64_or_url(text, "the input")
    except Refused as error:
        raise BadItem(error.code, error.message) from error


def _unreadable_error(name: str, error: OSError) -> BadItem:
    return BadItem(UNREADABLE, f"cannot read {name}: {error.strerror or error}")


def is_junk_file(name: str) -> bool:
    """Return whether a path within a folder or archive is a junk file of macOS, Windows or a NAS."""
    *folders, file = PurePosixPath(name.replace("\\", "/")).parts or ("",)
    return file.lower() in _JUNK_FILES or file.startswith("._") or any(part.lower() in _JUNK_DIRS for part in folders)
