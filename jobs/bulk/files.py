"""Stored files: adds, lists, reads, deletes their records and content; storage keys; pages of ids, shared."""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.contract.errors import OverLimit, Refused, RetryLater, StoreUnavailable
from jobs.redis_client import keys
from jobs.store.job_store import JobStore

FILE_ID: Final = re.compile(r"file-[0-9]{2}[0-9a-f]{32}")
DELETE_RETRY_MS: Final = 3_600_000  # when to retry the removal of an expired file that is in use
SWEEP_BATCH: Final = 100
READ_BATCH: Final = 100  # records of one pipeline
PARTS_BATCH: Final = 1000


T = TypeVar("T")


class File(NamedTuple):
    """A stored file. Times in ms. `bulk`, `kind`: the bulk job whose results it holds, and which; empty: an upload."""

    id: str
    tenant: str
    name: str
    purpose: str
    size_bytes: int
    created_ms: int
    expires_ms: int
    bulk: str = ""
    kind: str = ""
    lines: int = 0


def new_file_id(shard: int) -> str:
    return f"file-{shard:02d}{secrets.token_hex(16)}"


def shard_of(file_id: str) -> int:
    return int(file_id[5:7])


def content_key(file_id: str) -> str:
    """Return the storage key of an uploaded file's content."""
    return f"files/{file_id}"


def part_key(bulk_id: str, kind: str, part: str) -> str:
    """Return the storage key of a part of a bulk job's results."""
    return f"bulks/{bulk_id}/{kind}/{part}.jsonl"


async def register_upload(store: JobStore, file_id: str, longest_s: float) -> None:
    """Register content that is about to be stored. The sweep removes it if no file is added within `longest_s`."""
    until_ms = await store.connection.now_ms() + int(longest_s * 1000) + DELETE_RETRY_MS
    await store.connection.command("ZADD", keys.expiring_files(shard_of(file_id)), until_ms, file_id)


async def discard_upload(store: JobStore, storage: Storage, file_id: str) -> None:
    """Remove the content of a failed upload. If that fails, the sweep removes it later."""
    with suppress(RetryLater):
        await _remove(store, storage, file_id, b"", b"")


async def add_file(store: JobStore, settings: BulkSettings, file: File) -> None:
    """Add the record of a stored file. Raises OverLimit if its tenant has reached its limit of files."""
    args = (settings.bulk_files, file.expires_ms, settings.kept_s)
    facts = ("name", file.name, "purpose", file.purpose, "bytes", file.size_bytes)
    root = keys.root(shard_of(file.id))
    if await store.run("bulk_file/add", root, file.id, file.tenant, *args, *facts) == b"many":
        message = f"the limit of {settings.bulk_files} files is reached; delete some, or let them expire"
        raise OverLimit("quota_exceeded", message, limit=settings.bulk_files, retry_after_s=60)


async def get_file(store: JobStore, tenant: str, file_id: str) -> File:
    """Read a file's record. Raises Refused if this tenant has no such file."""
    (file,) = await _read(store, [file_id]) if _is_file_id(store, file_id) else [None]
    if file is None or file.tenant != tenant:
        raise not_found(file_id)
    return file


async def read_content(store: JobStore, storage: Storage, file: File) -> AsyncIterator[bytes]:
    """Iterate over a file's content; of results, over what is stored by now. Raises Refused if it was removed."""
    if file.bulk:
        first = 0
        while parts := await _parts(store, file, first):
            first += len(parts)
            async for block in _blocks(storage, file, parts):
                yield block
        return
    async for block in _blocks(storage, file, [content_key(file.id)]):
        yield block


async def _parts(store: JobStore, file: File, first: int) -> list[str]:
    """Return the storage keys of some parts of a result file, starting with the part `first`."""
    args = ("LRANGE", keys.bulk_parts(file.bulk, file.kind), first, first + PARTS_BATCH - 1)
    return [
        part_key(file.bulk, file.kind, part.decode().split(" ")[1]) for part in await store.connection.command(*args)
    ]


async def _blocks(storage: Storage, file: File, content_keys: Sequence[str]) -> AsyncIterator[bytes]:
    for key in content_keys:
        try:
            async for block in storage.read(key):
                yield block
        except KeyError as error:
            raise not_found(file.id) from error


async def list_files(
    store: JobStore, tenant: str, after: str, limit: int, *, purpose: str = "", oldest_first: bool = False
) -> tuple[list[File], bool]:
    """List a tenant's files by time of creation, and whether there are more. Raises Refused for an unknown `after`."""
    lists = [keys.files(shard, tenant) for shard in range(store.settings.shards)]

    async def read(ids: Sequence[str]) -> list[File | None]:
        return [
            file if file is not None and purpose in ("", file.purpose) else None for file in await _read(store, ids)
        ]

    return await read_page(store, lists, read, after, limit, oldest_first=oldest_first)


async def read_page(
    store: JobStore,
    lists: Sequence[str],
    read: Callable[[Sequence[str]], Awaitable[Sequence[T | None]]],
    after: str,
    limit: int,
    *,
    oldest_first: bool = False,
) -> tuple[list[T], bool]:
    """Read `limit` records of sorted sets behind the id `after`, and whether there are more.

    `read` returns None for a record that is not kept or does not match. Raises Refused if `after` is not in the list.
    """
    answers = await store.connection.pipeline([("ZRANGE", key, 0, -1, "WITHSCORES") for key in lists], large=True)
    entries = sorted((int(ms), name.decode()) for answer in answers for name, ms in answer)
    ids = [name for _, name in (entries if oldest_first else reversed(entries))]
    if after and after not in ids:
        raise Refused("invalid_request", f"after must be the id of an entry of the list, and {after[:80]!r} is not")
    found: list[T] = []
    count = min(READ_BATCH, limit + 1)
    for first in range(ids.index(after) + 1 if after else 0, len(ids), count):
        found += [record for record in await read(ids[first : first + count]) if record is not None]
        if len(found) > limit:
            break
    return found[:limit], len(found) > limit


async def delete_file(store: JobStore, storage: Storage, tenant: str, file_id: str) -> None:
    """Delete a file. Raises Refused if this tenant has no such file, or it is in use."""
    if not _is_file_id(store, file_id):
        raise not_found(file_id)
    status, *origin = await _unlink(store, file_id, tenant)
    if status == b"unknown":
        raise not_found(file_id)
    if status == b"used":
        raise Refused("file_in_use", f"a batch that has not ended reads or writes {file_id}: cancel it, or wait")
    await _remove(store, storage, file_id, *origin)


async def remove_expired(store: JobStore, storage: Storage, until_ms: int) -> int:
    """Remove expired files, and deleted files whose content remains; return how many. Safe to run concurrently.

    A failed removal is retried later and does not stop the others; the first such error is raised at the end.
    """
    removed, first_error = 0, None
    for shard in range(store.settings.shards):
        args = ("-inf", until_ms, "LIMIT", 0, SWEEP_BATCH)
        for name in await store.connection.command("ZRANGEBYSCORE", keys.expiring_files(shard), *args):
            try:
                file_id = name.decode()
                status, *origin = await _unlink(store, file_id)
                if status == b"dropped":
                    await _remove(store, storage, file_id, *origin)
                    removed += 1
            except StoreUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 (any error of storage, or a malformed name)
                first_error = first_error or error
                later_ms = until_ms + DELETE_RETRY_MS
                await store.connection.command("ZADD", keys.expiring_files(shard), "XX", later_ms, name)
    if first_error is not None:
        raise first_error
    return removed


async def _unlink(store: JobStore, file_id: str, tenant: str = "") -> list[bytes]:
    """Hide a tenant's file ("": one that has expired); return what became of it, and the bulk job it is from."""
    root = keys.root(shard_of(file_id))
    answer: list[bytes] = await store.run("bulk_file/unlink", root, file_id, tenant, DELETE_RETRY_MS)
    return answer


async def _remove(store: JobStore, storage: Storage, file_id: str, bulk: bytes, kind: bytes) -> None:
    await storage.remove(f"bulks/{bulk.decode()}/{kind.decode()}" if bulk else content_key(file_id))
    await store.run("bulk_file/forget", keys.root(shard_of(file_id)), file_id)


async def _read(store: JobStore, ids: Sequence[str]) -> list[File | None]:
    records = await store.connection.pipeline([("HGETALL", keys.file(shard_of(id_), id_)) for id_ in ids])
    texts = [{name.decode(): value.decode(errors="replace") for name, value in record.items()} for record in records]
    return [
        File(
            file_id,
            record["tenant"],
            record["name"],
            record["purpose"],
            int(record["bytes"]),
            int(record["created"]),
            int(record["expires"]),
            record.get("bulk", ""),
            record.get("kind", ""),
            int(record.get("lines", 0)),
        )
        if "bytes" in record and "deleted" not in record
        else None
        for file_id, record in zip(ids, texts, strict=True)
    ]


def _is_file_id(store: JobStore, file_id: str) -> bool:
    return FILE_ID.fullmatch(file_id) is not None and shard_of(file_id) < store.settings.shards


def not_found(file_id: str) -> Refused:
    """Return the same error for unknown, foreign and expired files."""
    return Refused("file_not_found", f"no file {file_id[:64]}; GET /v1/files lists those that are kept", param="id")
