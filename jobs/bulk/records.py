"""Bulks as their callers see them: made over a file, read, listed, cancelled. checkpoints.py takes them forward."""

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import orjson

from jobs.bulk import files
from jobs.bulk.settings import BulkSettings
from jobs.contract.errors import OverLimit, Refused
from jobs.redis_client import keys
from jobs.redis_client.pipelined_connection import Arg
from jobs.store.job_store import JobStore

WIRE_ID_PREFIX: Final = "batch_"  # of the id on the wire
BULK_ID: Final = re.compile(r"[0-9]{2}[0-9a-f]{24}")
RETRY_TTL_S: Final = 900  # so long a request that is sent again finds what it made
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
# Those whose time is kept, as fields `<status>` of the record.
TIMES: Final = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
FINAL: Final = frozenset({"failed", "completed", "expired", "cancelled"})


class Bulk(NamedTuple):
    """A bulk as its record has it. Times in ms; `times`: when it came into each status.

    `total`: input lines, `expanded`: of them those that are jobs or have ended; `line`, `offset`: where to read on;
    `collected`: outcomes that are stored; `abort_reason`: why what is left of its lines ends without a run,
    'cancelled' or 'expired'; empty = it does not. `faults`, `losses`: steps in a row that failed unexpectedly, or
    of which nothing was heard any more.
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
        """Count the lines that have an outcome."""
        return self.completed + self.failed


class BulkRequest(NamedTuple):
    """What a caller asks for. `key` makes this request unlike others; one that is sent `again` finds what it made.

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
    """Make a bulk, or find the one that this request made; raises Refused, OverLimit."""
    await files.get_file(store, tenant, request.file)
    shard = files.shard_of(request.file)
    bulk_id = f"{shard:02d}{secrets.token_hex(12)}"
    rules = (
        settings.bulk_batches,
        settings.kept_s,
        f"batch {request.key}",
        request.digest,
        int(request.again),
        RETRY_TTL_S,
    )
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
    how, *made = await store.run("bulk/create", keys.root(shard), bulk_id, tenant, request.file, *rules, *fields)
    if how == b"file":
        raise files.not_found(request.file)
    if how == b"mismatch":
        batch_id = WIRE_ID_PREFIX + made[0].decode()
        message = f"Idempotency-Key {request.key!r} was used with another request, which made {batch_id}"
        raise Refused("idempotency_mismatch", message)
    if how == b"many":
        message = f"{settings.bulk_batches} batches are kept already"
        raise OverLimit("quota_exceeded", message, limit=settings.bulk_batches, retry_after_s=60)
    return await get_bulk(store, tenant, WIRE_ID_PREFIX + made[0].decode())


async def get_bulk(store: JobStore, tenant: str, wire_id: str) -> Bulk:
    """Read a bulk by its id on the wire; raises Refused where there is none of this tenant's."""
    bulk_id = _parse_wire_id(store, wire_id)
    (found,) = await _read(store, [bulk_id])
    if found is None or found.tenant != tenant:
        raise not_found(wire_id)
    return found


async def list_bulks(store: JobStore, tenant: str, after: str, limit: int) -> tuple[list[Bulk], bool]:
    """List a tenant's bulks, newest first, and whether there are more; raises Refused for `after`."""
    lists = [keys.bulks(shard, tenant) for shard in range(store.settings.shards)]
    ids = await files.list_ids(store, lists, after.removeprefix(WIRE_ID_PREFIX))
    return await files.read_page(ids, limit, lambda some: _read(store, some), lambda _: True)


async def cancel_bulk(store: JobStore, tenant: str, wire_id: str) -> Bulk:
    """Have a bulk cancelled; what has an outcome keeps it. Raises Refused where it has ended, or is not theirs."""
    bulk_id = _parse_wire_id(store, wire_id)
    how = await store.run("bulk/cancel", keys.root(int(bulk_id[:2])), bulk_id, tenant)
    if how == b"unknown":
        raise not_found(wire_id)
    found = await get_bulk(store, tenant, wire_id)
    if how == b"final" and found.status != "cancelled":
        raise Refused("batch_already_final", f"{wire_id} has ended as {found.status}", param="id")
    return found


def parse_bulk(bulk_id: str, record: Mapping[bytes, bytes]) -> Bulk | None:
    """Read a bulk's record; None where it is none."""
    text = {name.decode(): value.decode(errors="replace") for name, value in record.items()}
    if "status" not in text or "tenant" not in text:
        return None
    counts = (
        "total",
        "expanded",
        "line",
        "offset",
        "bytes",
        "collected",
        "completed",
        "failed_lines",
        "faults",
        "losses",
    )
    number = {name: int(text.get(name, 0)) for name in counts}
    return Bulk(
        bulk_id,
        text["tenant"],
        text["status"],  # type: ignore[arg-type]  # ours alone
        text["file"],
        text["endpoint"],
        text["window"],
        int(text["created"]),
        int(text["expires"]),
        {status: int(text[f"{status}_ms"]) for status in TIMES if f"{status}_ms" in text},
        text["out_file"],
        text["err_file"],
        number["total"],
        number["expanded"],
        number["line"],
        number["offset"],
        number["bytes"],
        number["collected"],
        number["completed"],
        number["failed_lines"],
        out_exists="out_exists" in text,
        err_exists="err_exists" in text,
        abort_reason=text.get("abort_reason", ""),
        is_validated="total" in text,
        metadata=record.get(b"metadata", b"{}"),
        errors=record.get(b"errors", b""),
        webhook=text.get("webhook", ""),
        retry_of=text.get("retry_of", ""),
        kept_s=int(text.get("kept", 0)),
        stalled=text.get("stalled", ""),
        faults=number["faults"],
        losses=number["losses"],
    )


async def _read(store: JobStore, ids: Sequence[str]) -> list[Bulk | None]:
    if not ids:
        return []
    records = await store.connection.pipeline([("HGETALL", keys.bulk(one)) for one in ids])
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
    """Say that there is no such batch: one answer for unknown, foreign and forgotten ones."""
    message = f"no batch {wire_id[:64]}; GET /v1/batches lists those that are kept"
    return Refused("batch_not_found", message, param="id")


def bulk_view(bulk: Bulk) -> dict[str, object]:
    """Show a bulk as OpenAI's object, ready for orjson; beside its fields, why it stands still, if it does."""
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
