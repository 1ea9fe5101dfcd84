"""Dead letters: failed jobs that are kept with their exact input, to be looked at, sent again, or forgotten.

A letter is a job in `:dead_letters` whose hash still has its input; whatever else is there is none. Sending one again
makes a new job: a final state never changes. Where there are too many letters, or too many bytes, the tenant that
holds most loses its oldest: one tenant's failures do not push out another's letters.
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

MAX_SCANNED: Final = 1000  # letters that one page looks at, whether or not they are wanted
CHUNK: Final = 100
PAGE_BYTES: Final = 16 << 20  # of parameters, metadata and errors in one page; it may be short
_FIELDS: Final = (*codec.READ_FIELDS, "kind", "parameters", "kills", "lost_leases", "retries", "webhook", "replayed")


class Position(NamedTuple):
    """Where a letter stands among all of them: by the ms of its end, then by its id."""

    ended_ms: int
    id: str


class DeadLetterFilter(NamedTuple):
    """Which letters are wanted; None, or an empty string: all. Ended at `since_ms` or later, and before `until_ms`."""

    model: str = ""
    code: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    replayed: bool | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter without its input."""

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
    """Some letters, newest first, and the place to go on from; None: there are no more."""

    letters: list[tuple[Position, DeadLetter]]
    after: Position | None


async def list_dead_letters(
    store: JobStore, tenant: str | None, wanted: DeadLetterFilter, after: Position | None, limit: int
) -> Page:
    """Find a tenant's letters, or all (None), newest first. A page may hold few, or none, and yet have a next one."""
    found: list[tuple[Position, DeadLetter]] = []
    size = 0
    for _ in range(MAX_SCANNED // CHUNK):
        places = await _list_positions(store, tenant, wanted, after)
        for place, letter in zip(places, await _read(store, [place.id for place in places]), strict=True):
            after = place
            if letter is not None and tenant in (None, letter.job.tenant) and _matches(letter, wanted):
                found.append((place, letter))
                size += len(letter.parameters) + len(letter.job.metadata) + len(letter.job.error or b"")
            if len(found) == limit or size > PAGE_BYTES:
                return Page(found, after)
        if len(places) < CHUNK:
            return Page(found, None)
    return Page(found, after)


async def get_dead_letter(store: JobStore, tenant: str | None, job_id: str) -> DeadLetter:
    """Read a letter. Raises Refused where it is kept no more, or is not this tenant's (None: any)."""
    is_id = JOB_ID.fullmatch(job_id) and shard_of(job_id) < store.settings.shards
    letter = (await _read(store, [job_id]))[0] if is_id else None
    if letter is None or tenant not in (None, letter.job.tenant):
        raise not_found(store, job_id)
    return letter


async def read_input(store: JobStore, letter: DeadLetter) -> bytes:
    """Read a letter's exact input. Raises Refused where it is kept no more."""
    commands = [("HGET", keys.job(letter.job.id), "input")]
    found: bytes | None = (await store.connection.pipeline(commands, large=True))[0]
    if found is None:
        raise not_found(store, letter.job.id)
    return found


async def mark_replayed(store: JobStore, job_id: str, new_id: str) -> None:
    """Write on a letter which job it was sent again as."""
    await store.run("dead_letter/mark_replayed", keys.root(shard_of(job_id)), job_id, new_id)


async def purge_dead_letters(store: JobStore, job_ids: Sequence[str]) -> int:
    """Forget letters; what is left of each job stays as long as any result. Returns how many there were."""
    gone = 0
    for shard, root in enumerate(store.roots):
        if ids := [job_id for job_id in job_ids if shard_of(job_id) == shard]:
            gone += await store.run("dead_letter/purge", root, len(ids), *store.ends, *ids)
    return gone


async def count_dead_letters(store: JobStore) -> tuple[int, int]:
    """Count all letters, and the bytes of their inputs."""
    shards = range(store.settings.shards)
    counts = await store.connection.pipeline([("ZCARD", keys.dead_letters(shard)) for shard in shards])
    sizes = await store.connection.pipeline([("GET", keys.dead_letter_bytes(shard)) for shard in shards])
    return sum(counts), sum(int(size or 0) for size in sizes)


def not_found(store: JobStore, job_id: str) -> Refused:
    """Say that there is no such letter: one answer for unknown, foreign and forgotten ones."""
    s = store.settings
    message = f"no dead letter {job_id[:64]}; they are kept for {s.dead_letter_ttl_s:g} s, the newest {s.dead_letters}"
    return Refused("dead_letter_not_found", message)


def _matches(letter: DeadLetter, wanted: DeadLetterFilter) -> bool:
    return (
        wanted.model in ("", letter.job.model)
        and wanted.code in ("", letter.code)
        and wanted.replayed in (None, letter.replayed_as is not None)
    )


async def _list_positions(
    store: JobStore, tenant: str | None, wanted: DeadLetterFilter, after: Position | None
) -> list[Position]:
    """List the next places of all shards in the wanted time; fewer than CHUNK where there are no more."""
    latest = [after.ended_ms] if after else []
    latest += [wanted.until_ms - 1] if wanted.until_ms is not None else []
    span = (min(latest) if latest else "+inf", "-inf" if wanted.since_ms is None else wanted.since_ms)
    shards = range(store.settings.shards)
    lists = [
        keys.dead_letters(shard) if tenant is None else keys.tenant_dead_letters(shard, tenant) for shard in shards
    ]
    found = [place for one in lists for place in await _list_older(store, one, span, after)]
    return sorted(found, reverse=True)[:CHUNK]


async def _list_older(store: JobStore, listed: str, span: tuple[Any, Any], after: Position | None) -> list[Position]:
    older: list[Position] = []
    offset = 0
    while len(older) < CHUNK:
        words = ("ZREVRANGEBYSCORE", listed, *span, "WITHSCORES", "LIMIT", offset, CHUNK)
        members = await store.connection.command(*words)
        places = [Position(int(ms), member.decode().partition(" ")[0]) for member, ms in members]
        older += [place for place in places if after is None or place < after]  # many may have ended in the same ms
        if len(places) < CHUNK:
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
    known = len(codec.READ_FIELDS)
    job = codec.read_job(job_id, values[:known])
    kind, parameters, *numbers, webhook, replayed = values[known:]
    if job is None or job.state != State.FAILED or not size or kind is None:
        return None
    try:
        kills, losses, retries = (int(number or 0) for number in numbers)
        as_job = replayed.decode() if replayed else None
        code = str(orjson.loads(job.error or b"")["code"])
        asked = (webhook or b"").decode()
        return DeadLetter(job, kind.decode(), parameters or b"{}", size, kills, losses, retries, as_job, code, asked)
    except (ValueError, TypeError, KeyError):
        log.warning("the record of dead letter %s can not be read", job_id)
        return None
