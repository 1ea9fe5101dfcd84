"""One line of a run: what it is called, and how its bytes are had."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from cli.bulk.errors import TOO_LARGE, UNREADABLE, BadItem
from jobs.contract.base64_reader import read_base64_or_url
from jobs.contract.errors import Refused

# A gateway takes 32 MiB in one body (JITNEY_MAX_BODY_BYTES), and base64 makes three bytes four.
MAX_BYTES: Final = 24 << 20


class Item(NamedTuple):
    """A line, counted from 1. `size` in bytes where it is known; `id` as the input names it.

    `read` gives the bytes, or raises BadItem. `job`: the line is a job as POST /v1/jobs takes it, and `read` is not
    asked.
    """

    line: int
    name: str
    size: int
    read: Callable[[], bytes]
    id: str | None = None
    job: Mapping[str, Any] | None = None


class InputSource(NamedTuple):
    """An input as a whole. `total`: how many lines, where that is known. `is_remote`: reading waits for a network."""

    items: Callable[[], Iterator[Item]]
    total: int | None
    is_remote: bool = False


def invalid_item(line: int, name: str, error: BadItem, item_id: str | None = None) -> Item:
    """Give a line that is known to be of no use."""

    def read() -> bytes:
        raise error

    return Item(line, name, 0, read, item_id)


def file_item(line: int, name: str, path: Path, item_id: str | None = None) -> Item:
    """Give a line whose bytes are a file's."""
    try:
        size = path.stat().st_size
    except OSError as error:
        return invalid_item(line, name, _unreadable_error(name, error), item_id)
    if size > MAX_BYTES:
        return invalid_item(line, name, too_large_error(name, size), item_id)

    def read() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise _unreadable_error(name, error) from error

    return Item(line, name, size, read, item_id)


def too_large_error(name: str, size: int) -> BadItem:
    """Say that these are more bytes than a job may have."""
    return BadItem(TOO_LARGE, f"{name} has {size} bytes; a line may have {MAX_BYTES}")


def decode_base64(text: str) -> bytes:
    """Read base64, or a data: URL of it; raises BadItem."""
    try:
        return read_base64_or_url(text, "the image")
    except Refused as error:
        raise BadItem(error.code, error.message) from error


def _unreadable_error(name: str, error: OSError) -> BadItem:
    return BadItem(UNREADABLE, f"{name} can not be read: {error.strerror or error}")
