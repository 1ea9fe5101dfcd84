"""Steps of bulk jobs in Redis: leases due ones, records checkpoints (refused without the lease); ids of lines.

The record in Redis is the only source of truth about a bulk job. A step may die at any point; the next one continues
from the last checkpoint.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from jobs.bulk.input_lines import Bitmap
from jobs.bulk.records import Bulk, parse_bulk
from jobs.contract.errors import JitneyError
from jobs.redis_client import keys
from jobs.redis_client.pipelined_connection import Arg
from jobs.store import codec
from jobs.store.background_lease import BackgroundLease, read_leases
from jobs.store.job_store import JobStore

LINE_NUMBER_OFFSET: Final = 26  # position of the line number in a job id


class LeaseLost(Exception):
    """The step may not write any more: another one holds the lease, or the bulk job has ended."""


class BulkSnapshot(NamedTuple):
    """A bulk job, the number of outcomes in its log, and the server's time in ms.

    `open_bulks`: divisor for shared capacity: split evenly by tenant first, then by the bulk jobs of each.
    """

    bulk: Bulk
    waiting: int
    open_bulks: int
    now_ms: int


class LineFailure(NamedTuple):
    """A line that ends without a run. `state`: failed, canceled or expired."""

    job_id: str
    custom_id: str | None
    state: str
    error: JitneyError


class ResultPart(NamedTuple):
    """A stored part of the results: its number of lines, their bytes in the log, and its share of the two files."""

    name: str
    lines: int
    log_bytes: int
    out_bytes: int
    err_bytes: int
    out_lines: int
    err_lines: int


def job_id(bulk_id: str, number: int) -> str:
    """Return the job id of a line: always the same for the same line."""
    return f"{bulk_id}{number:08x}"


def line_number(line_id: str) -> int:
    """Return the line number of a line's job id."""
    return int(line_id[LINE_NUMBER_OFFSET:], 16)


async def dispatch_due_steps(
    store: JobStore, root: str, want: int, slots: int, lease_ms: int
) -> tuple[list[BackgroundLease], float | None]:
    """Lease up to `want` bulk jobs whose step is due. `slots`: number of threads in all processes.

    Also return the seconds until the next step is due; None if no bulk job is open.
    """
    return read_leases(await store.run("bulk/dispatch", root, want, slots, lease_ms))


async def begin_step(store: JobStore, lease: BackgroundLease, lease_ms: int) -> BulkSnapshot:
    """Read a bulk job for its step. Raises LeaseLost."""
    record = await store.run("bulk/begin_step", lease.root, *lease, lease_ms)
    if record is None:
        raise LeaseLost
    now_ms, waiting, open_bulks, *fields = record
    bulk = parse_bulk(lease.delivery, dict(zip(fields[::2], fields[1::2], strict=True)))
    if bulk is None:
        raise LeaseLost
    return BulkSnapshot(bulk, waiting, open_bulks, now_ms)


async def update_bulk(
    store: JobStore, lease: BackgroundLease, lease_ms: int, status: str = "", fields: Mapping[str, Arg] | None = None
) -> bool:
    """Write fields and extend the lease. Return False if `status` is not the current one. Raises LeaseLost."""
    args = [arg for pair in (fields or {}).items() for arg in pair]
    done = await store.run("bulk/update", lease.root, *lease, lease_ms, status, *args)
    if not done and not status:
        raise LeaseLost
    return bool(done)


async def read_done_lines(store: JobStore, bulk: Bulk, first: int, last: int) -> Bitmap:
    """Return which of the lines `first` to `last` have an outcome."""
    data = await store.connection.command("GETRANGE", keys.done_lines(bulk.id), first >> 3, last >> 3)
    return Bitmap(bytes(first >> 3) + data)


async def record_expansion(
    store: JobStore,
    lease: BackgroundLease,
    lease_ms: int,
    bulk: Bulk,
    *,
    taken: int,
    place: tuple[int, int],
    size: int,
    ends: Sequence[LineFailure],
) -> None:
    """Record that `taken` more lines became jobs or ended, and where (line, offset) to continue. Raises LeaseLost."""
    args = [
        arg for end in ends for arg in (end.job_id, end.state, codec.error_body(end.error), orjson.dumps(end.custom_id))
    ]
    cursor = (bulk.expanded, bulk.expanded + taken, *place, size)
    if not await store.run("bulk/expand", lease.root, *lease, lease_ms, *cursor, *store.retention_args, *args):
        raise LeaseLost


async def read_outcomes(store: JobStore, bulk: Bulk, count: int, size_bytes: int) -> list[bytes]:
    """Return the oldest outcomes in the log: at most `count` and `size_bytes`, but at least one."""
    outcomes: list[bytes] = await store.run(
        "bulk/read_outcomes", keys.root(int(bulk.id[:2])), bulk.id, count, size_bytes
    )
    return outcomes


async def record_collection(
    store: JobStore,
    lease: BackgroundLease,
    lease_ms: int,
    bulk: Bulk,
    part: ResultPart,
    *,
    expires_ms: int,
    kept_s: int,
) -> None:
    """Remove stored outcomes from the log and add their part to the result files. Raises LeaseLost."""
    sizes = (part.out_bytes, part.err_bytes, part.out_lines, part.err_lines)
    args = (bulk.collected, part.lines, part.log_bytes, part.name, *sizes, expires_ms, kept_s)
    if not await store.run("bulk/collect", lease.root, *lease, lease_ms, *args):
        raise LeaseLost


async def finish_step(
    store: JobStore, lease: BackgroundLease, after_s: float, stalled: str = "", *, is_fault: bool = False
) -> None:
    """End a step; the next one is due after `after_s` seconds. `stalled`: why the bulk job is stuck, for its owner.

    `is_fault`: the step failed unexpectedly. Consecutive faults are counted in the record.
    """
    await store.run("bulk/finish_step", lease.root, *lease, int(after_s * 1000), stalled, int(is_fault))


class BulkCompletion(NamedTuple):
    """How a bulk job ends, and its webhook ('' = none) with its payload. `fields`: further fields of the record."""

    status: str
    webhook: str
    payload: bytes
    fields: Mapping[str, Arg]


async def close_bulk(store: JobStore, lease: BackgroundLease, end: BulkCompletion, kept_s: int) -> None:
    """End a bulk job and queue its webhook. Raises LeaseLost."""
    fields = [arg for pair in end.fields.items() for arg in pair]
    args = (end.status, kept_s, end.webhook, end.payload)
    if not await store.run("bulk/close", lease.root, *lease, *args, *fields):
        raise LeaseLost
