"""Where bulk's files lie, behind one small port.

An object is there as a whole or not at all. Keys are ours alone: letters, digits and slashes, no word of a caller.
"""

import errno
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, Protocol

from jobs.contract.errors import Refused, RetryLater
from jobs.contract.json_reader import describe_value

BLOCK_BYTES: Final = 1 << 20
RETRY_AFTER_S: Final = 5
MAX_KEY_BYTES, MAX_NAME_BYTES = 1024, 255  # bytes of a key (S3), and of a part of it between slashes (file systems)
# What is wrong with one object alone: waiting for it would not help.
NOT_FOUND_ERRNOS: Final = frozenset(
    {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
)


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


async def single_block(data: bytes) -> AsyncIterator[bytes]:
    """Give bytes as the only block."""
    yield data


class StorageDenied(RetryLater):
    """Storage knows an object, or may know it, and does not let us read it."""


def storage_unavailable(error: Exception, kind: type[RetryLater] = RetryLater) -> RetryLater:
    """Say that storage did not take, or give, what it should."""
    reason = getattr(error, "strerror", None) or str(error).split("\n", maxsplit=1)[0][:200] or type(error).__name__
    kind = StorageDenied if isinstance(error, PermissionError) else kind
    return kind("storage_unavailable", f"the storage of bulk files: {reason}", retry_after_s=RETRY_AFTER_S)


class ImageStore:
    """Images that lines name by key, below a folder or a prefix that the operator gave."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def read(self, key: str, limit_bytes: int) -> bytes:
        """Read an image; raises Refused where there is none, or it is too large."""
        parts = key.split("/")
        is_long = len(key.encode()) > MAX_KEY_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts)
        is_odd = not key or key != key.strip() or any(part in ("", ".", "..") for part in parts)
        if is_long or is_odd or not key.isprintable():
            raise Refused("image_unavailable", f"image_key {describe_value(key)} is no key")
        read = bytearray()
        try:
            async for block in self._storage.read(key):
                read += block
                if len(read) > limit_bytes:
                    raise Refused("body_too_large", f"an image may have {limit_bytes} bytes", limit_bytes=limit_bytes)
        except (KeyError, StorageDenied) as error:
            raise Refused("image_unavailable", f"no image can be read under the key {describe_value(key)}") from error
        return bytes(read)
