"""Storage interface of bulk files, and the store of images that lines name by key.

Objects are written atomically. Keys consist of letters, digits and slashes; they never contain a caller's text.
"""

import errno
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, Protocol

from jobs.contract.errors import Refused, RetryLater
from jobs.contract.json_reader import describe_value

BLOCK_BYTES: Final = 1 << 20
RETRY_AFTER_S: Final = 5
MAX_KEY_BYTES, MAX_NAME_BYTES = 1024, 255  # bytes of a key (S3), and of a path segment (file systems)
# Errors of one object alone: a retry would not help.
NOT_FOUND_ERRNOS: Final = frozenset(
    {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
)


class Storage(Protocol):
    """Raises RetryLater (storage_unavailable) if it is unreachable or full; KeyError if there is no such object."""

    buffer_bytes: int  # most bytes of an unfinished object that a write holds in memory

    async def write(self, key: str, blocks: AsyncIterator[bytes]) -> int:
        """Write or replace an object; return its size. If `blocks` raises, nothing is stored."""
        ...

    def read(self, key: str, offset: int = 0) -> AsyncGenerator[bytes]:
        """Iterate over an object's blocks from byte `offset`."""
        ...

    async def remove(self, prefix: str) -> None:
        """Remove the object, or all objects below; does nothing if there is none."""
        ...


async def single_block(data: bytes) -> AsyncIterator[bytes]:
    """Yield `data` as the only block."""
    yield data


class StorageDenied(RetryLater):
    """Storage refuses access to an object, which may or may not exist."""


def storage_unavailable(error: Exception, kind: type[RetryLater] = RetryLater) -> RetryLater:
    """Return the error for a failed call to storage."""
    reason = getattr(error, "strerror", None) or str(error).split("\n", maxsplit=1)[0][:200] or type(error).__name__
    kind = StorageDenied if isinstance(error, PermissionError) else kind
    return kind("storage_unavailable", f"cannot use the storage of bulk files: {reason}", retry_after_s=RETRY_AFTER_S)


class ImageStore:
    """Images that lines name by key, below the operator's folder or prefix."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def read(self, key: str, limit_bytes: int) -> bytes:
        """Read an image. Raises Refused if it does not exist, is unreadable, or has more than `limit_bytes`."""
        parts = key.split("/")
        is_long = len(key.encode()) > MAX_KEY_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts)
        is_invalid = not key or key != key.strip() or any(part in ("", ".", "..") for part in parts)
        if is_long or is_invalid or not key.isprintable():
            raise Refused("image_unavailable", f"image_key {describe_value(key)} is not a valid key")
        data = bytearray()
        try:
            async for block in self._storage.read(key):
                data += block
                if len(data) > limit_bytes:
                    message = f"an image may have at most {limit_bytes} bytes"
                    raise Refused("body_too_large", message, limit_bytes=limit_bytes)
        except (KeyError, StorageDenied) as error:
            raise Refused("image_unavailable", f"no image can be read under the key {describe_value(key)}") from error
        return bytes(data)
