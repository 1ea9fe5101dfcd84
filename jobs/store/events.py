"""Job events in Redis: the history of one job, a tenant's log of all its jobs, and who listens to them.

A job's record contains its whole history, so following one job needs no log. A tenant's log is written only while
somebody listens to it. It is capped, and expires an hour after its last entry.
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
MAX_ATTEMPTS_SHOWN: Final = 1000  # attempts of a job's history
_LOG_POSITION: Final = re.compile(r"\d{1,16}-\d{1,16}(\.\d{1,16}-\d{1,16}){0,98}")


class StateChange(NamedTuple):
    """A state that a job entered, numbered from 1."""

    ordinal: int
    state: State


class LogEntry(NamedTuple):
    """An entry of a tenant's log, and the position to continue from."""

    position: str
    job_id: str
    state: str


async def follow_job(store: JobStore, job_id: str, gateway: str) -> tuple[Job | None, list[StateChange]]:
    """Read a job and its history. Until it is final, this gateway is notified of each change."""
    root = store.roots[shard_of(job_id)]
    values = await store.run("job/read_and_follow", root, gateway, job_id)
    job = codec.read_job(job_id, values)
    return job, [] if job is None else job_history(job.state, job.attempts, ended_running=bool(job.owner))


def job_history(state: State, attempts: int, *, ended_running: bool) -> list[StateChange]:
    """Return the states of a job, derived from its record: every attempt that did not end it led back to the queue."""
    states = [State.QUEUED] + [State.RUNNING, State.QUEUED] * min(attempts, MAX_ATTEMPTS_SHOWN)
    if attempts and (state == State.RUNNING or (state in FINAL and ended_running)):
        states.pop()
    if state in FINAL:
        states.append(state)
    return [StateChange(ordinal, entered) for ordinal, entered in enumerate(states, 1)]


async def register_listeners(store: JobStore, tenants: Collection[str], ttl_s: float) -> frozenset[str]:
    """Register listeners to these tenants for `ttl_s` seconds; return all tenants with listeners."""
    names = await store.run("generic/register_listeners", keys.LISTENING, int(ttl_s * 1000), *tenants)
    return frozenset(name.decode() for name in names)


async def notify_listeners_changed(store: JobStore) -> None:
    """Notify all gateways that the set of listeners changed."""
    await store.connection.command("PUBLISH", keys.INVALIDATION, LISTENERS_CHANGED)


async def find_log_end(store: JobStore, tenant: str) -> str:
    """Return the position behind the last entry of a tenant's log."""
    logs = _logs(store, tenant)
    last = await store.connection.pipeline([("XREVRANGE", log, "+", "-", "COUNT", 1) for log in logs])
    return ".".join(entries[0][0].decode() if entries else "0-0" for entries in last)


async def has_gap(store: JobStore, tenant: str, position: str) -> bool:
    """Return True if entries behind this position may have been trimmed from the log."""
    logs = _logs(store, tenant)
    oldest = await store.connection.pipeline([("XRANGE", log, "-", "+", "COUNT", 1) for log in logs])
    return any(
        not entries or _entry_order(entries[0][0].decode()) > _entry_order(at)
        for entries, at in zip(oldest, position.split("."), strict=True)
    )


async def read_log(store: JobStore, tenant: str, position: str) -> list[LogEntry]:
    """Return entries of the log behind a position, at most PAGE_SIZE per shard."""
    positions, logs = position.split("."), _logs(store, tenant)
    commands = [("XRANGE", log, f"({at}", "+", "COUNT", PAGE_SIZE) for log, at in zip(logs, positions, strict=True)]
    result: list[LogEntry] = []
    for shard, entries in enumerate(await store.connection.pipeline(commands)):
        for entry_id, fields in entries:
            positions[shard] = entry_id.decode()
            values = dict(zip(fields[::2], fields[1::2], strict=True))
            result.append(LogEntry(".".join(positions), values[b"id"].decode(), values[b"status"].decode()))
    return result


def is_log_position(store: JobStore, text: str) -> bool:
    """Return True if the text is a position in the log, as an event id contains it."""
    return bool(_LOG_POSITION.fullmatch(text)) and text.count(".") == store.settings.shards - 1


def _logs(store: JobStore, tenant: str) -> Sequence[str]:
    return [keys.job_events(shard, tenant) for shard in range(store.settings.shards)]


def _entry_order(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)
