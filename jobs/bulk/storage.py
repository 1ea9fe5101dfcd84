"""Where bulk's files lie, behind one small port; and its first side, a folder.

An object is there as a whole or not at all. Keys are ours alone: letters, digits and slashes, no word of a caller.
"""

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from jobs.errors import NotNow, Refused

BLOCK_BYTES: Final = 1 << 20
RETRY_AFTER_S: Final = 5


class Storage(Protocol):
    """Raises NotNow (storage_unavailable) where it can not be reached or has no room, KeyError where nothing lies."""

    buffer_bytes: int  # of an object that is being written, at most, that it keeps in memory between two blocks

    async def write(self, key: str, blocks: AsyncIterator[bytes]) -> int:
        """Store an object, in place of an earlier one; gives its bytes. What `blocks` raises leaves nothing behind."""
        ...

    def read(self, key: str, offset: int = 0) -> AsyncGenerator[bytes]:
        """Give an object's blocks from a byte on."""
        ...

    async def remove(self, prefix: str) -> None:
        """Remove the object, or all objects below; it is no fault where there is none."""
        ...


async def one(data: bytes) -> AsyncIterator[bytes]:
    """Give bytes as the only block."""
    yield data


def open_storage(location: str) -> Storage:
    """Open a folder, or an object store by its URL. Raises ImportError where the extra `s3` is not installed."""
    if "://" not in location:
        return Folder(Path(location))
    from jobs.bulk.s3 import ObjectStore  # noqa: PLC0415 (an extra)

    return ObjectStore(location)


def unavailable(error: Exception) -> NotNow:
    """Say that storage did not take, or give, what it should."""
    reason = getattr(error, "strerror", None) or str(error).split("\n", maxsplit=1)[0][:200] or type(error).__name__
    return NotNow("storage_unavailable", f"the storage of bulk files: {reason}", retry_after_s=RETRY_AFTER_S)


class Folder:
    """A folder on this machine, or one that all parts share. Calls that may block run in threads."""

    buffer_bytes = 0  # a block is written before the next one is asked for

    def __init__(self, root: Path) -> None:
        self._root = root

    async def write(self, key: str, blocks: AsyncIterator[bytes]) -> int:
        target = self._root / key
        # Beside its place, so that renaming is one step; and under a name of its own, for two may write at a time.
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            file = await asyncio.to_thread(_create, partial)
            try:
                async for block in blocks:
                    await asyncio.to_thread(file.write, block)
                return await asyncio.to_thread(_keep, file, partial, target)
            finally:
                await asyncio.shield(asyncio.to_thread(_discard, file, partial))
        except OSError as error:
            raise unavailable(error) from error

    async def read(self, key: str, offset: int = 0) -> AsyncGenerator[bytes]:
        try:
            file = await asyncio.to_thread(_open, self._root / key, offset)
            try:
                while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                    yield block
            finally:
                file.close()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise KeyError(key) from error
        except OSError as error:
            raise unavailable(error) from error

    async def remove(self, prefix: str) -> None:
        try:
            await asyncio.to_thread(_remove, self._root / prefix)
        except OSError as error:
            raise unavailable(error) from error


class Pictures:
    """Images that lines name by key, below a folder or a prefix that the operator gave."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def read(self, key: str, limit_bytes: int) -> bytes:
        """Read an image; raises Refused where there is none, or it is too large."""
        parts = key.split("/")
        if not key or key != key.strip() or any(part in ("", ".", "..") for part in parts) or not key.isprintable():
            raise Refused("image_unavailable", f"image_key {key[:80]!r} is no key")
        read = bytearray()
        try:
            async for block in self._storage.read(key):
                read += block
                if len(read) > limit_bytes:
                    raise Refused("body_too_large", f"an image may have {limit_bytes} bytes", limit_bytes=limit_bytes)
        except KeyError as error:
            raise Refused("image_unavailable", f"no image lies under the key {key[:80]!r}") from error
        return bytes(read)


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb", buffering=0)


def _open(path: Path, offset: int) -> BinaryIO:
    file = path.open("rb")
    file.seek(offset)
    return file


def _keep(file: BinaryIO, partial: Path, target: Path) -> int:
    """Have it on disk before it has its name, and its name before anybody is told."""
    os.fsync(file.fileno())
    size = file.tell()
    partial.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return size


def _discard(file: BinaryIO, partial: Path) -> None:
    file.close()
    partial.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
