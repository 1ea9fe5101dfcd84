"""A bulk as whoever takes it forward uses it: each function is one atomic step.

It is refused to a flight that is not the bulk's last. What these write is the only truth about a bulk; a step may die
anywhere, and another goes on from its last checkpoint.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from jobs.bulk.input_lines import Bitmap
from jobs.bulk.records import Bulk, parse_bulk
from jobs.contract.background_lease import BackgroundLease
from jobs.contract.errors import JitneyError
from jobs.redis_client import keys
from jobs.redis_client.pipelined_connection import Arg
from jobs.store import codec
from jobs.store.job_store import JobStore

LINE_NUMBER_OFFSET: Final = 26  # where a line's number begins in its job's id


class LeaseLost(Exception):
    """A flight may write no more: another is under way, or the bulk is over."""


class BulkSnapshot(NamedTuple):
    """A bulk, how many outcomes its log holds, and the server's time in ms.

    `open_bulks`: what all bulks share is divided by so many, by tenants first, then by the bulks of each.
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
    """Outcomes that are stored: of how many lines, their bytes in the log, and what they are in the two files."""

    name: str
    lines: int
    log_bytes: int
    out_bytes: int
    err_bytes: int
    out_lines: int
    err_lines: int


def job_id(bulk_id: str, number: int) -> str:
    """Name the job of a line: the same whenever the line is read."""
    return f"{bulk_id}{number:08x}"


def line_number(line_id: str) -> int:
    """Give the number of the line whose job this is."""
    return int(line_id[LINE_NUMBER_OFFSET:], 16)


async def dispatch_due_steps(
    store: JobStore, root: str, want: int, slots: int, lease_ms: int
) -> tuple[list[BackgroundLease], float | None]:
    """Take up to `want` bulks whose step is due, for as many `slots` (threads) as there are in all.

    Also says in how many seconds the next is due; None: none is open.
    """
    next_ms, *handed = await store.run("bulk/dispatch", root, want, slots, lease_ms)
    leases = [
        BackgroundLease(name.decode(), int(number)) for name, number in zip(handed[::2], handed[1::2], strict=True)
    ]
    return leases, None if next_ms < 0 else next_ms / 1000


async def begin_step(store: JobStore, lease: BackgroundLease, lease_ms: int) -> BulkSnapshot:
    """Read a bulk for its step; raises Overtaken."""
    found = await store.run("bulk/begin_step", _root(lease), *lease, lease_ms)
    if found is None:
        raise LeaseLost
    now_ms, waiting, open_bulks, *fields = found
    bulk = parse_bulk(lease.delivery, dict(zip(fields[::2], fields[1::2], strict=True)))
    if bulk is None:
        raise LeaseLost
    return BulkSnapshot(bulk, waiting, open_bulks, now_ms)


async def update_bulk(
    store: JobStore, lease: BackgroundLease, lease_ms: int, status: str = "", fields: Mapping[str, Arg] | None = None
) -> bool:
    """Write fields, or only say that the step goes on; False where the bulk has another status. Raises Overtaken."""
    args = [arg for pair in (fields or {}).items() for arg in pair]
    done = await store.run("bulk/update", _root(lease), *lease, lease_ms, status, *args)
    if not done and not status:
        raise LeaseLost
    return bool(done)


async def read_done_lines(store: JobStore, bulk: Bulk, first: int, last: int) -> Bitmap:
    """Read which of these lines have an outcome."""
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
    """Note that `taken` more lines are jobs or end here, and where (line, offset) to read on; raises Overtaken."""
    args = [arg for one in ends for arg in (one.job_id, one.state, error_body(one.error), orjson.dumps(one.custom_id))]
    cursor = (bulk.expanded, bulk.expanded + taken, *place, size)
    if not await store.run("bulk/expand", _root(lease), *lease, lease_ms, *cursor, *store.ends, *args):
        raise LeaseLost


async def read_outcomes(store: JobStore, bulk: Bulk, count: int, size_bytes: int) -> list[bytes]:
    """Read the oldest outcomes of a bulk's log: so many at most, and so many bytes, but one in any case."""
    found: list[bytes] = await store.run("bulk/read_outcomes", keys.root(int(bulk.id[:2])), bulk.id, count, size_bytes)
    return found


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
    """Take stored outcomes out of the log, and add their part to the files; raises Overtaken."""
    sizes = (part.out_bytes, part.err_bytes, part.out_lines, part.err_lines)
    args = (bulk.collected, part.lines, part.log_bytes, part.name, *sizes, expires_ms, kept_s)
    if not await store.run("bulk/collect", _root(lease), *lease, lease_ms, *args):
        raise LeaseLost


async def finish_step(
    store: JobStore, lease: BackgroundLease, after_s: float, stalled: str = "", *, is_fault: bool = False
) -> None:
    """End a step; the next is due after a while. `stalled`: why nothing can go on, in words for the bulk's owner.

    `is_fault`: the step failed unexpectedly. Faults in a row are counted, in the bulk's record.
    """
    await store.run("bulk/finish_step", _root(lease), *lease, int(after_s * 1000), stalled, int(is_fault))


class BulkCompletion(NamedTuple):
    """How a bulk ends, and what its webhook ('' = none) is told. `fields`: what is written beside."""

    status: str
    webhook: str
    payload: bytes
    fields: Mapping[str, Arg]


async def close_bulk(store: JobStore, lease: BackgroundLease, end: BulkCompletion, kept_s: int) -> None:
    """End a bulk, and have it told; raises Overtaken."""
    args = [arg for pair in end.fields.items() for arg in pair]
    how = (end.status, kept_s, end.webhook, end.payload)
    if not await store.run("bulk/close", _root(lease), *lease, *how, *args):
        raise LeaseLost


def error_body(error: JitneyError) -> bytes:
    """Write an error as an outcome carries it."""
    return codec.error_body(error)


def _root(lease: BackgroundLease) -> str:
    return keys.root(int(lease.delivery[:2]))
