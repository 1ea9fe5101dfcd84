"""Defines the Redis record of a bulk job and its view (OpenAI's batch); creates, reads, lists, cancels bulk jobs."""

import re
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Literal, NamedTuple

import orjson

from jobs.bulk import files
from jobs.bulk.settings import BulkSettings
from jobs.contract.errors import OverLimit, Refused
from jobs.redis_client import keys
from jobs.redis_client.pipelined_connection import Arg
from jobs.store.job_store import JobStore

WIRE_ID_PREFIX: Final = "batch_"  # of ids in the API
BULK_ID: Final = re.compile(r"[0-9]{2}[0-9a-f]{24}")
RETRY_TTL_S: Final = 900  # how long a repeated request finds the bulk job it created
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
# Statuses whose time is recorded, as the field `<status>_ms`.
TIMES: Final = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
FINAL: Final = frozenset({"failed", "completed", "expired", "cancelled"})
# Numbers of a bulk job → fields of its record.
_COUNTS: Final = {
    **{name: name for name in ("total", "expanded", "line", "offset", "collected", "completed", "faults", "losses")},
    "held_bytes": "bytes",
    "failed": "failed_lines",
    "kept_s": "kept",
}


class Bulk(NamedTuple):
    """A bulk job as its record has it. Times in ms; `times`: when each status was reached.

    `total`: input lines; `expanded`: lines that became jobs or ended; `line`, `offset`: where to continue reading;
    `collected`: stored outcomes; `abort_reason`: why the remaining lines end without a run: 'cancelled', 'expired', or
    empty if they do not. `faults`, `losses`: consecutive steps that failed unexpectedly, or lost their lease.
    """

    id: str
    tenant: str
    status: Status
    file: str
    endpoint: str
    window: str
    created_ms: int
    expires_ms: int
    times: Mapping[str, int]
    out_file: str
    err_file: str
    total: int = 0
    expanded: int = 0
    line: int = 0
    offset: int = 0
    held_bytes: int = 0
    collected: int = 0
    completed: int = 0
    failed: int = 0
    out_exists: bool = False
    err_exists: bool = False
    abort_reason: str = ""
    is_validated: bool = False
    metadata: bytes = b"{}"
    errors: bytes = b""
    webhook: str = ""
    retry_of: str = ""
    kept_s: int = 0
    stalled: str = ""
    faults: int = 0
    losses: int = 0

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def ended(self) -> int:
        """Number of lines that have an outcome."""
        return self.completed + self.failed


class BulkRequest(NamedTuple):
    """Request to create a bulk job. `key` identifies the request; `again`: a repeat returns the existing bulk job.

    `digest`: of the request's body; a key that was used with another body is refused.
    """

    file: str
    endpoint: str
    window: str
    window_ms: int
    metadata: bytes
    webhook: str
    retry_of: str
    key: str
    again: bool
    kept_s: int
    digest: str = ""


async def create_bulk(store: JobStore, settings: BulkSettings, tenant: str, request: BulkRequest, now_ms: int) -> Bulk:
    """Create a bulk job, or return the one that this request created. Raises Refused, OverLimit."""
    await files.get_file(store, tenant, request.file)
    shard = files.shard_of(request.file)
    bulk_id = f"{shard:02d}{secrets.token_hex(12)}"
    limits = (settings.bulk_batches, settings.kept_s)
    key = (f"batch {request.key}", request.digest, int(request.again), RETRY_TTL_S)
    record: dict[str, Arg] = {
        "endpoint": request.endpoint,
        "window": request.window,
        "expires": now_ms + request.window_ms,
        "out_file": files.new_file_id(shard),
        "err_file": files.new_file_id(shard),
        "metadata": request.metadata,
        "webhook": request.webhook,
        "retry_of": request.retry_of,
        "kept": request.kept_s,
        "collected": 0,
        "expanded": 0,
    }
    fields = [arg for pair in record.items() for arg in pair]
    status, *ids = await store.run(
        "bulk/create", keys.root(shard), bulk_id, tenant, request.file, *limits, *key, *fields
    )
    if status == b"file":
        raise files.not_found(request.file)
    if status == b"mismatch":
        batch_id = WIRE_ID_PREFIX + ids[0].decode()
        message = f"Idempotency-Key {request.key!r} was used with another request, which created {batch_id}"
        raise Refused("idempotency_mismatch", message)
    if status == b"many":
        message = f"the limit of {settings.bulk_batches} batches is reached; old ones expire"
        raise OverLimit("quota_exceeded", message, limit=settings.bulk_batches, retry_after_s=60)
    return await get_bulk(store, tenant, WIRE_ID_PREFIX + ids[0].decode())


async def get_bulk(store: JobStore, tenant: str, wire_id: str) -> Bulk:
    """Read a bulk job by its id in the API. Raises Refused if this tenant has no such bulk job."""
    bulk_id = _parse_wire_id(store, wire_id)
    (bulk,) = await _read(store, [bulk_id])
    if bulk is None or bulk.tenant != tenant:
        raise not_found(wire_id)
    return bulk


async def list_bulks(store: JobStore, tenant: str, after: str, limit: int) -> tuple[list[Bulk], bool]:
    """List a tenant's bulk jobs, newest first, and whether there are more. Raises Refused for an unknown `after`."""
    lists = [keys.bulks(shard, tenant) for shard in range(store.settings.shards)]
    return await files.read_page(store, lists, partial(_read, store), after.removeprefix(WIRE_ID_PREFIX), limit)


async def cancel_bulk(store: JobStore, tenant: str, wire_id: str) -> Bulk:
    """Cancel a bulk job; lines with an outcome keep it. Raises Refused if it has ended or is not this tenant's."""
    bulk_id = _parse_wire_id(store, wire_id)
    status = await store.run("bulk/cancel", keys.root(int(bulk_id[:2])), bulk_id, tenant)
    if status == b"unknown":
        raise not_found(wire_id)
    bulk = await get_bulk(store, tenant, wire_id)
    if status == b"final" and bulk.status != "cancelled":
        raise Refused("batch_already_final", f"{wire_id} has ended as {bulk.status}", param="id")
    return bulk


def parse_bulk(bulk_id: str, record: Mapping[bytes, bytes]) -> Bulk | None:
    """Parse a bulk job's record; None if it is incomplete."""
    text = {name.decode(): value.decode(errors="replace") for name, value in record.items()}
    if "status" not in text or "tenant" not in text:
        return None
    return Bulk(
        bulk_id,
        text["tenant"],
        text["status"],  # type: ignore[arg-type]  # written by Jitney alone
        text["file"],
        text["endpoint"],
        text["window"],
        int(text["created"]),
        int(text["expires"]),
        {status: int(text[f"{status}_ms"]) for status in TIMES if f"{status}_ms" in text},
        text["out_file"],
        text["err_file"],
        **{name: int(text.get(field, 0)) for name, field in _COUNTS.items()},
        out_exists="out_exists" in text,
        err_exists="err_exists" in text,
        abort_reason=text.get("abort_reason", ""),
        is_validated="total" in text,
        metadata=record.get(b"metadata", b"{}"),
        errors=record.get(b"errors", b""),
        webhook=text.get("webhook", ""),
        retry_of=text.get("retry_of", ""),
        stalled=text.get("stalled", ""),
    )


async def _read(store: JobStore, ids: Sequence[str]) -> list[Bulk | None]:
    records = await store.connection.pipeline([("HGETALL", keys.bulk(bulk_id)) for bulk_id in ids])
    return [parse_bulk(bulk_id, record) for bulk_id, record in zip(ids, records, strict=True)]


def _parse_wire_id(store: JobStore, wire_id: str) -> str:
    bulk_id = wire_id.removeprefix(WIRE_ID_PREFIX)
    if (
        not wire_id.startswith(WIRE_ID_PREFIX)
        or not BULK_ID.fullmatch(bulk_id)
        or int(bulk_id[:2]) >= store.settings.shards
    ):
        raise not_found(wire_id)
    return bulk_id


def not_found(wire_id: str) -> Refused:
    """Return the same error for unknown, foreign and expired batches."""
    message = f"no batch {wire_id[:64]}; GET /v1/batches lists those that are kept"
    return Refused("batch_not_found", message, param="id")


def bulk_view(bulk: Bulk) -> dict[str, object]:
    """Return OpenAI's batch object, ready for orjson, with `stalled` and `retry_of` if they apply."""
    at = {f"{status}_at": _seconds(bulk.times.get(status)) for status in TIMES}
    metadata = orjson.Fragment(bulk.metadata)
    shown = {
        "id": WIRE_ID_PREFIX + bulk.id,
        "object": "batch",
        "endpoint": bulk.endpoint,
        "model": None,
        "errors": orjson.Fragment(bulk.errors) if bulk.errors else None,
        "input_file_id": bulk.file,
        "completion_window": bulk.window,
        "status": bulk.status,
        "output_file_id": bulk.out_file if bulk.out_exists else None,
        "error_file_id": bulk.err_file if bulk.err_exists else None,
        "created_at": _seconds(bulk.created_ms),
        "expires_at": _seconds(bulk.expires_ms),
        **at,
        "request_counts": {"total": bulk.total, "completed": bulk.completed, "failed": bulk.failed},
        "usage": None,
        "metadata": metadata,
    }
    more = {"retry_of": WIRE_ID_PREFIX + bulk.retry_of if bulk.retry_of else "", "stalled": bulk.stalled}
    return {**shown, **{name: text for name, text in more.items() if text}}


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000
