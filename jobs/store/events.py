"""What happens to jobs, for those who follow it: one job by its own record, all of a tenant's by a log.

A job's record tells its whole history, so following one needs no log. The log is written while somebody listens, for
jobs that were accepted meanwhile; it is capped, and goes an hour after the last word.
"""

import re
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from jobs.contract.ids import shard_of
from jobs.contract.job import Job
from jobs.contract.lifecycle import FINAL, State
from jobs.redis_client import keys
from jobs.store import codec
from jobs.store.job_store import JobStore

LISTENERS_CHANGED: Final = b"listeners"
PAGE_SIZE: Final = 100
MAX_ATTEMPTS_SHOWN: Final = 1000  # of a record's history that are told
_LOG_POSITION: Final = re.compile(r"\d{1,16}-\d{1,16}(\.\d{1,16}-\d{1,16}){0,98}")


class StateChange(NamedTuple):
    """A state that a job came into: the how-manieth, counted from 1."""

    ordinal: int
    state: State


class LogEntry(NamedTuple):
    """A line of a tenant's log, and the place from which one goes on behind it."""

    position: str
    job_id: str
    state: str


async def follow_job(store: JobStore, job_id: str, gateway: str) -> tuple[Job | None, list[StateChange]]:
    """Read a job and its history; while it is not final, this gateway hears of each change."""
    root = store.roots[shard_of(job_id)]
    *values, owner = await store.run("job/read_and_follow", root, gateway, job_id, *codec.READ_FIELDS)
    job = codec.read_job(job_id, values)
    return job, [] if job is None else job_history(job.state, job.attempts, ended_running=bool(owner))


def job_history(state: State, attempts: int, *, ended_running: bool) -> list[StateChange]:
    """List what a job went through, from how it stands: each attempt that did not end it led back to the line."""
    states = [State.QUEUED] + [State.RUNNING, State.QUEUED] * min(attempts, MAX_ATTEMPTS_SHOWN)
    if attempts and (state == State.RUNNING or (state in FINAL and ended_running)):
        states.pop()
    if state in FINAL:
        states.append(state)
    return [StateChange(ordinal, one) for ordinal, one in enumerate(states, 1)]


async def register_listeners(store: JobStore, tenants: Collection[str], ttl_s: float) -> frozenset[str]:
    """Say for so long that somebody here listens to these; gives all tenants that anybody listens to."""
    found = await store.run("generic/register_listeners", keys.LISTENING, int(ttl_s * 1000), *tenants)
    return frozenset(name.decode() for name in found)


async def notify_listeners_changed(store: JobStore) -> None:
    """Have all gateways look at once who is listened to."""
    await store.connection.command("PUBLISH", keys.INVALIDATION, LISTENERS_CHANGED)


async def find_log_end(store: JobStore, tenant: str) -> str:
    """Give the place behind everything that is in a tenant's log now."""
    logs = _logs(store, tenant)
    found = await store.connection.pipeline([("XREVRANGE", log, "+", "-", "COUNT", 1) for log in logs])
    return ".".join(entries[0][0].decode() if entries else "0-0" for entries in found)


async def has_gap(store: JobStore, tenant: str, place: str) -> bool:
    """Whether something behind this place may be in the log no more."""
    logs = _logs(store, tenant)
    found = await store.connection.pipeline([("XRANGE", log, "-", "+", "COUNT", 1) for log in logs])
    return any(
        not entries or _entry_order(entries[0][0].decode()) > _entry_order(at)
        for entries, at in zip(found, place.split("."), strict=True)
    )


async def read_log(store: JobStore, tenant: str, place: str) -> list[LogEntry]:
    """Read the log behind a place, at most some hundred lines."""
    places, logs = place.split("."), _logs(store, tenant)
    words = [("XRANGE", log, f"({at}", "+", "COUNT", PAGE_SIZE) for log, at in zip(logs, places, strict=True)]
    read: list[LogEntry] = []
    for shard, entries in enumerate(await store.connection.pipeline(words)):
        for entry_id, fields in entries:
            places[shard] = entry_id.decode()
            named = dict(zip(fields[::2], fields[1::2], strict=True))
            read.append(LogEntry(".".join(places), named[b"id"].decode(), named[b"status"].decode()))
    return read


def is_log_position(store: JobStore, text: str) -> bool:
    """Whether this is a place in the log, as an event's id gives it."""
    return bool(_LOG_POSITION.fullmatch(text)) and text.count(".") == store.settings.shards - 1


def _logs(store: JobStore, tenant: str) -> Sequence[str]:
    return [keys.job_events(shard, tenant) for shard in range(store.settings.shards)]


def _entry_order(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)
