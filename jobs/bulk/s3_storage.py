"""Stores bulk files in S3 or a compatible object store, through obstore.

obstore reads endpoint and credentials from the environment: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID ….
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any, Final

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError
from obstore.store import from_url

from jobs.bulk.storage import StorageDenied, storage_unavailable

PART_BYTES: Final = 8 << 20  # smallest part that S3 accepts is 5 MiB; a file may have 10,000 parts


class S3Storage:
    """Objects below a prefix of a bucket."""

    buffer_bytes = 2 * PART_BYTES  # the part being sent and the part being filled

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        self._store: Any = from_url(f"{scheme}://{bucket}", client_options={"allow_http": True})
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    async def write(self, key: str, blocks: AsyncIterator[bytes]) -> int:
        size, source_errors = 0, list[BaseException]()

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            try:
                async for block in blocks:
                    size += len(block)
                    yield block
            except Exception as error:
                source_errors.append(error)
                raise

        try:
            await obstore.put_async(
                self._store, self._prefix + key, counted(), chunk_size=PART_BYTES, max_concurrency=1
            )
        except Exception as error:
            if source_errors:  # raise the error of `blocks`, not obstore's error about it
                raise source_errors[0] from None
            if isinstance(error, BaseError):
                raise storage_unavailable(error) from error
            raise
        return size

    async def read(self, key: str, offset: int = 0) -> AsyncGenerator[bytes]:
        try:
            options: Any = {"range": {"offset": offset}} if offset else {}
            response = await obstore.get_async(self._store, self._prefix + key, options=options)
            async for block in response.stream():
                yield bytes(block)
        except (NotFoundError, FileNotFoundError) as error:
            raise KeyError(key) from error
        except PermissionDeniedError as error:
            raise storage_unavailable(error, StorageDenied) from error
        except BaseError as error:
            raise storage_unavailable(error) from error

    async def remove(self, prefix: str) -> None:
        try:
            keys = [self._prefix + prefix]
            async for entries in obstore.list(self._store, prefix=f"{self._prefix}{prefix}/"):
                keys += [entry["path"] for entry in entries]
            for key in keys:
                with suppress(NotFoundError, FileNotFoundError):
                    await obstore.delete_async(self._store, key)
        except BaseError as error:
            raise storage_unavailable(error) from error
