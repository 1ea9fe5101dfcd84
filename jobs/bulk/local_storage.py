"""Local storage of bulk files: the storage interface on a folder."""

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import BinaryIO

from jobs.bulk.storage import BLOCK_BYTES, NOT_FOUND_ERRNOS, storage_unavailable


class LocalStorage:
    """A folder on this machine or a shared one. Blocking calls run in threads."""

    buffer_bytes = 0  # each block is written before the next is read

    def __init__(self, root: Path) -> None:
        self._root = root

    async def write(self, key: str, blocks: AsyncIterator[bytes]) -> int:
        target = self._root / key
        # In the same folder, so that the rename is atomic; with a unique name, because writes may be concurrent.
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            file = await asyncio.to_thread(_create, partial)
            try:
                async for block in blocks:
                    await asyncio.to_thread(file.write, block)
                return await asyncio.to_thread(_commit, file, partial, target)
            finally:
                await asyncio.shield(asyncio.to_thread(_discard, file, partial))
        except OSError as error:
            raise storage_unavailable(error) from error

    async def read(self, key: str, offset: int = 0) -> AsyncGenerator[bytes]:
        try:
            file = await asyncio.to_thread(_open, self._root / key, offset)
            try:
                while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                    yield block
            finally:
                file.close()
        except OSError as error:
            if error.errno in NOT_FOUND_ERRNOS:
                raise KeyError(key) from error
            raise storage_unavailable(error) from error

    async def remove(self, prefix: str) -> None:
        try:
            await asyncio.to_thread(_remove, self._root / prefix)
        except OSError as error:
            raise storage_unavailable(error) from error


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb", buffering=0)


def _open(path: Path, offset: int) -> BinaryIO:
    file = path.open("rb")
    file.seek(offset)
    return file


def _commit(file: BinaryIO, partial: Path, target: Path) -> int:
    """Sync the data, then rename it, then sync the folder, so that a completed write survives a crash."""
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
    """Remove a file or folder, and partial files that interrupted writes left behind."""
    if path.is_dir():
        shutil.rmtree(path)
        return
    path.unlink(missing_ok=True)
    for partial in path.parent.glob(f".{path.name}.*"):
        partial.unlink(missing_ok=True)
