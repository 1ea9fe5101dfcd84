"""Dead letters: failed jobs that are kept with their input; list, read, mark as replayed, purge.

A dead letter is a job in the set `:dead_letters` whose hash still has its input. A replay creates a new job, because a
final state never changes. Above the limit of letters or bytes, the tenant that holds most loses its oldest, so that the
failures of one tenant do not push out another's letters.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

from jobs.contract.errors import Refused
from jobs.contract.ids import JOB_ID, shard_of
from jobs.contract.job import Job
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.store import codec, record_pages
from jobs.store.job_store import JobStore
from jobs.store.record_pages import Page, Position

log = logging.getLogger("jitney.jobs")

_FIELDS: Final = (*codec.LISTED_FIELDS, "kills", "lost_leases", "retries", "webhook", "replayed")


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
    rows: int  # of the input; 0 = it has no row dimension
    input_bytes: int
    kills: int
    losses: int
    retries: int
    replayed_as: str | None
    code: str  # why the job failed
    webhook: str


async def list_dead_letters(
    store: JobStore, tenant: str | None, query: DeadLetterFilter, after: Position | None, limit: int
) -> Page[DeadLetter]:
    """List a tenant's dead letters (None: all), newest first."""
    shards = range(store.settings.shards)
    lists = [
        keys.dead_letters(shard) if tenant is None else keys.tenant_dead_letters(shard, tenant) for shard in shards
    ]

    async def read(ids: Sequence[str]) -> list[DeadLetter | None]:
        letters = await _read(store, ids)
        return [letter if letter is not None and _matches(letter, tenant, query) else None for letter in letters]

    since, until = query.since_ms, query.until_ms
    return await record_pages.read_page(
        store.connection, lists, read, after, limit, since=since, until=until, size_of=_text_bytes
    )


def _text_bytes(letter: DeadLetter) -> int:
    return len(letter.parameters) + len(letter.job.metadata) + len(letter.job.error or b"")


async def get_dead_letter(store: JobStore, tenant: str | None, job_id: str) -> DeadLetter:
    """Read a dead letter. Raises Refused if it is not kept, or not this tenant's (None: any tenant)."""
    is_id = JOB_ID.fullmatch(job_id) and shard_of(job_id) < store.settings.shards
    dead_letter = (await _read(store, [job_id]))[0] if is_id else None
    if dead_letter is None or tenant not in (None, dead_letter.job.tenant):
        raise not_found(store, job_id)
    return dead_letter


async def read_input(store: JobStore, dead_letter: DeadLetter) -> bytes:
    """Read a dead letter's exact input. Raises Refused if it is no longer kept."""
    job_id = dead_letter.job.id
    commands = (("HGET", keys.job(job_id), "body"), ("GET", keys.input_key(job_id)))
    body, apart = await store.connection.pipeline(commands, large=True)
    value: bytes | None = body if apart is None else apart
    if value is None:
        raise not_found(store, job_id)
    return value


async def mark_replayed(store: JobStore, job_id: str, new_id: str) -> None:
    """Record on a dead letter the id of the job that replays it."""
    await store.run("dead_letter/mark_replayed", keys.root(shard_of(job_id)), job_id, new_id)


async def purge_dead_letters(store: JobStore, job_ids: Sequence[str]) -> int:
    """Delete dead letters; the job records stay as long as other results. Return how many were deleted."""
    purged = 0
    for shard, root in enumerate(store.roots):
        if ids := [job_id for job_id in job_ids if shard_of(job_id) == shard]:
            purged += await purge_shard(store, root, len(ids), ids)
    return purged


async def purge_shard(store: JobStore, root: str, limit: int, job_ids: Sequence[str] = ()) -> int:
    """Delete these dead letters of a shard, or at most `limit` that are above the limits; return how many."""
    return int(await store.run("dead_letter/purge", root, limit, *store.retention_args, *job_ids))


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


def _matches(dead_letter: DeadLetter, tenant: str | None, query: DeadLetterFilter) -> bool:
    return (
        tenant in (None, dead_letter.job.tenant)
        and query.model in ("", dead_letter.job.model)
        and query.code in ("", dead_letter.code)
        and query.replayed in (None, dead_letter.replayed_as is not None)
    )


async def _read(store: JobStore, job_ids: Sequence[str]) -> list[DeadLetter | None]:
    commands = [
        command
        for job_id in job_ids
        for command in (
            ("HMGET", keys.job(job_id), *_FIELDS),
            ("HSTRLEN", keys.job(job_id), "body"),
            ("STRLEN", keys.input_key(job_id)),
        )
    ]
    answers = await store.connection.pipeline(commands, large=True)
    return [
        _build_letter(job_id, values, size or size_apart)
        for job_id, values, size, size_apart in zip(job_ids, answers[::3], answers[1::3], answers[2::3], strict=True)
    ]


def _build_letter(job_id: str, values: Sequence[bytes | None], size: int) -> DeadLetter | None:
    job_fields = len(codec.LISTED_FIELDS)
    job = codec.read_listed_job(job_id, values[:job_fields])
    *numbers, webhook, replayed = values[job_fields:]
    if job is None or job.state != State.FAILED or not size:
        return None
    try:
        kind, parameters, rows = codec.read_input_facts(values)
        kills, losses, retries = (int(number or 0) for number in numbers)
        as_job = replayed.decode() if replayed else None
        code = str(orjson.loads(job.error or b"")["code"])
        record = (webhook or b"").decode()
        return DeadLetter(job, kind, parameters, rows, size, kills, losses, retries, as_job, code, record)
    except (ValueError, TypeError, KeyError):
        log.warning("cannot read the record of dead letter %s", job_id)
        return None
