"""Dead letters: failed jobs that are kept with their input; list, read, mark as replayed, purge.

A dead letter is a job in the set `:dead_letters` whose hash still has its input. A replay creates a new job, because a
final state never changes. Above the limit of letters or bytes, the tenant that holds most loses its oldest, so that the
failures of one tenant do not push out another's letters.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from jobs.contract.errors import Refused
from jobs.contract.ids import JOB_ID, shard_of
from jobs.contract.job import Job
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.store import codec
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.jobs")

MAX_SCANNED: Final = 1000  # dead letters that one page reads, matching or not
CHUNK: Final = 100
PAGE_BYTES: Final = 16 << 20  # of parameters, metadata and errors in one page; a page may be short for it
_FIELDS: Final = (*codec.READ_FIELDS, "kind", "parameters", "kills", "lost_leases", "retries", "webhook", "replayed")


class Position(NamedTuple):
    """Sort key of a dead letter: the ms of its end, then its id."""

    ended_ms: int
    id: str


class DeadLetterFilter(NamedTuple):
    """Filter of dead letters; None or "" matches all. Ended at `since_ms` or later, and before `until_ms`."""

    model: str = ""
    code: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    replayed: bool | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, without its input."""

    job: Job
    kind: str
    parameters: bytes
    input_bytes: int
    kills: int
    losses: int
    retries: int
    replayed_as: str | None
    code: str  # why the job failed
    webhook: str


class Page(NamedTuple):
    """Dead letters, newest first, and the position to continue from; None: there are no more."""

    letters: list[tuple[Position, DeadLetter]]
    after: Position | None


async def list_dead_letters(
    store: JobStore, tenant: str | None, query: DeadLetterFilter, after: Position | None, limit: int
) -> Page:
    """List a tenant's dead letters (None: all), newest first. A page may be short or empty and yet have a next one."""
    matches: list[tuple[Position, DeadLetter]] = []
    size = 0
    for _ in range(MAX_SCANNED // CHUNK):
        positions = await _list_positions(store, tenant, query, after)
        for position, dead_letter in zip(positions, await _read(store, [entry.id for entry in positions]), strict=True):
            after = position
            if dead_letter is not None and tenant in (None, dead_letter.job.tenant) and _matches(dead_letter, query):
                matches.append((position, dead_letter))
                size += len(dead_letter.parameters) + len(dead_letter.job.metadata) + len(dead_letter.job.error or b"")
            if len(matches) == limit or size > PAGE_BYTES:
                return Page(matches, after)
        if len(positions) < CHUNK:
            return Page(matches, None)
    return Page(matches, after)


async def get_dead_letter(store: JobStore, tenant: str | None, job_id: str) -> DeadLetter:
    """Read a dead letter. Raises Refused if it is not kept, or not this tenant's (None: any tenant)."""
    is_id = JOB_ID.fullmatch(job_id) and shard_of(job_id) < store.settings.shards
    dead_letter = (await _read(store, [job_id]))[0] if is_id else None
    if dead_letter is None or tenant not in (None, dead_letter.job.tenant):
        raise not_found(store, job_id)
    return dead_letter


async def read_input(store: JobStore, dead_letter: DeadLetter) -> bytes:
    """Read a dead letter's exact input. Raises Refused if it is no longer kept."""
    commands = [("HGET", keys.job(dead_letter.job.id), "input")]
    value: bytes | None = (await store.connection.pipeline(commands, large=True))[0]
    if value is None:
        raise not_found(store, dead_letter.job.id)
    return value


async def mark_replayed(store: JobStore, job_id: str, new_id: str) -> None:
    """Record on a dead letter the id of the job that replays it."""
    await store.run("dead_letter/mark_replayed", keys.root(shard_of(job_id)), job_id, new_id)


async def purge_dead_letters(store: JobStore, job_ids: Sequence[str]) -> int:
    """Delete dead letters; the job records stay as long as other results. Return how many were deleted."""
    purged = 0
    for shard, root in enumerate(store.roots):
        if ids := [job_id for job_id in job_ids if shard_of(job_id) == shard]:
            purged += await store.run("dead_letter/purge", root, len(ids), *store.ends, *ids)
    return purged


async def count_dead_letters(store: JobStore) -> tuple[int, int]:
    """Return the number of dead letters of all tenants, and the bytes of their inputs."""
    shards = range(store.settings.shards)
    counts = await store.connection.pipeline([("ZCARD", keys.dead_letters(shard)) for shard in shards])
    sizes = await store.connection.pipeline([("GET", keys.dead_letter_bytes(shard)) for shard in shards])
    return sum(counts), sum(int(size or 0) for size in sizes)


def not_found(store: JobStore, job_id: str) -> Refused:
    """Return the same error for unknown, foreign and purged dead letters."""
    s = store.settings
    message = f"no dead letter {job_id[:64]}; they are kept for {s.dead_letter_ttl_s:g} s, the newest {s.dead_letters}"
    return Refused("dead_letter_not_found", message)


def _matches(dead_letter: DeadLetter, query: DeadLetterFilter) -> bool:
    return (
        query.model in ("", dead_letter.job.model)
        and query.code in ("", dead_letter.code)
        and query.replayed in (None, dead_letter.replayed_as is not None)
    )


async def _list_positions(
    store: JobStore, tenant: str | None, query: DeadLetterFilter, after: Position | None
) -> list[Position]:
    """Return the next positions of all shards within the filter's time; fewer than CHUNK at the end."""
    latest = [after.ended_ms] if after else []
    latest += [query.until_ms - 1] if query.until_ms is not None else []
    span = (min(latest) if latest else "+inf", "-inf" if query.since_ms is None else query.since_ms)
    shards = range(store.settings.shards)
    lists = [
        keys.dead_letters(shard) if tenant is None else keys.tenant_dead_letters(shard, tenant) for shard in shards
    ]
    positions = [position for key in lists for position in await _list_older(store, key, span, after)]
    return sorted(positions, reverse=True)[:CHUNK]


async def _list_older(store: JobStore, key: str, span: tuple[Any, Any], after: Position | None) -> list[Position]:
    older: list[Position] = []
    offset = 0
    while len(older) < CHUNK:
        args = ("ZREVRANGEBYSCORE", key, *span, "WITHSCORES", "LIMIT", offset, CHUNK)
        members = await store.connection.command(*args)
        positions = [Position(int(ms), member.decode().partition(" ")[0]) for member, ms in members]
        older += [entry for entry in positions if after is None or entry < after]  # several may share a ms
        if len(positions) < CHUNK:
            break
        offset += CHUNK
    return older


async def _read(store: JobStore, job_ids: Sequence[str]) -> list[DeadLetter | None]:
    commands = [
        command
        for job_id in job_ids
        for command in (("HMGET", keys.job(job_id), *_FIELDS), ("HSTRLEN", keys.job(job_id), "input"))
    ]
    answers = await store.connection.pipeline(commands, large=True) if commands else []
    return [
        _build_letter(job_id, values, size)
        for job_id, values, size in zip(job_ids, answers[::2], answers[1::2], strict=True)
    ]


def _build_letter(job_id: str, values: Sequence[bytes | None], size: int) -> DeadLetter | None:
    job_fields = len(codec.READ_FIELDS)
    job = codec.read_job(job_id, values[:job_fields])
    kind, parameters, *numbers, webhook, replayed = values[job_fields:]
    if job is None or job.state != State.FAILED or not size or kind is None:
        return None
    try:
        kills, losses, retries = (int(number or 0) for number in numbers)
        as_job = replayed.decode() if replayed else None
        code = str(orjson.loads(job.error or b"")["code"])
        record = (webhook or b"").decode()
        return DeadLetter(job, kind.decode(), parameters or b"{}", size, kills, losses, retries, as_job, code, record)
    except (ValueError, TypeError, KeyError):
        log.warning("cannot read the record of dead letter %s", job_id)
        return None
