"""Finds jobs by state, model, version, lane, tenant, error code, time and metadata, newest first, in bounded pages.

No index is written for it while jobs succeed: queued jobs are read from the queues, running ones from the timers, those
that did not succeed from the one list that their end writes, and all others from the lists of tenants
(docs/explanation/decisions/listing-and-control.md).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from typing import Final, NamedTuple

import orjson

from jobs.contract.job import LANES, Job
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.store import codec
from jobs.store.codec import JobHead
from jobs.store.job_store import READ_BATCH, JobStore
from jobs.store.merged_lists import Listed, MergedLists
from jobs.store.record_pages import PAGE_BYTES, Position

MAX_SCANNED: Final = 5000  # ids that one page looks at, whether or not they match
MAX_TIMERS: Final = 20_000  # timers among which one page looks for running jobs
TIMERS_BATCH: Final = 100  # timers per script
MAX_RETRIES: Final = 1000  # jobs waiting for a retry that one page looks at, the first to run
MAX_PARKED: Final = 1000  # tenants at their limit of running jobs whose queues one page looks at
MIN_READ: Final = 20  # records per read
UNSUCCESSFUL: Final = frozenset({State.FAILED, State.CANCELED, State.EXPIRED})
OPEN: Final = frozenset({State.QUEUED, State.RUNNING})

ModelVersion = tuple[str, str]


class JobFilter(NamedTuple):
    """Filter of jobs; None or "" matches all. Accepted at `since_us` or later, and before `until_us`.

    `tenant` None: jobs of all tenants. `states`: empty matches all.
    """

    tenant: str | None
    states: frozenset[State] = frozenset()
    model: str = ""
    version: str = ""
    lane: str = ""
    code: str = ""
    since_us: int | None = None
    until_us: int | None = None
    metadata: Mapping[str, str] = {}

    def matches_head(self, state: State, head: JobHead) -> bool:
        return (
            (not self.states or state in self.states)
            and self.tenant in (None, head.tenant)
            and self.model in ("", head.model)
            and self.version in ("", head.version)
            and self.lane in ("", head.lane)
        )

    def matches_job(self, job: Job) -> bool:
        """Return whether the metadata and the error code match."""
        if self.code and (not job.error or orjson.loads(job.error).get("code") != self.code):
            return False
        if not self.metadata:
            return True
        metadata = orjson.loads(job.metadata)
        return all(metadata.get(name) == value for name, value in self.metadata.items())

    def matches_words(self, words: str) -> bool:
        """Return whether a member of `:unsuccessful` may match: '<state> <code> <model> <version> <lane>'."""
        state, code, model, version, lane = (words.split(" ") + [""] * 5)[:5]
        return (
            (not self.states or state in self.states)
            and self.code in ("", code)
            and self.model in ("", model)
            and self.version in ("", version)
            and self.lane in ("", lane)
        )


class SearchScope(NamedTuple):
    """What a gateway knows of the queue: model versions, tenants (to look at if all are asked for), longest lease."""

    versions: Collection[ModelVersion]
    tenants: Sequence[str] = ()
    longest_lease_s: float = 0.0


class JobPage(NamedTuple):
    """Jobs, newest first, without outputs. `after`: to continue from (None: there are no more).

    `scanned`: listed ids that were looked at; `scanned_to_us`: acceptance of the last of them.
    """

    jobs: list[Job]
    after: Position | None
    scanned: int
    scanned_to_us: int | None


async def search_jobs(
    store: JobStore,
    query: JobFilter,
    scope: SearchScope,
    after: Position | None,
    limit: int,
    *,
    is_over: Callable[[], bool] = lambda: False,
) -> JobPage:
    """Return a page of at most `limit` matching jobs behind `after`. Lines of batches are left out.

    `is_over` is asked after each read of records: the page ends early if it returns True.
    """
    lists = await open_lists(store, query, scope, after)
    jobs, seen = list[Job](), set[str]()
    size_bytes = scanned = 0
    count = min(READ_BATCH, max(limit, MIN_READ))
    while scanned < MAX_SCANNED:
        found = await lists.take(count)
        wanted = [each for each in found if not each.words or query.matches_words(each.words)]
        matching = await _read_matching(store, query, wanted)
        for listed in found:
            scanned, after = scanned + 1, listed.position
            if (job := matching.get(after.id)) is not None and job.id not in seen:
                seen.add(job.id)
                jobs.append(job)
                size_bytes += len(job.metadata) + len(job.error or b"")
            if len(jobs) == limit or size_bytes > PAGE_BYTES:
                return JobPage(jobs, after, scanned, after.time)
        if len(found) < count:
            return JobPage(jobs, None, scanned, after.time if after and scanned else None)
        if is_over():
            break
        count = min(READ_BATCH, 2 * count)
    return JobPage(jobs, after, scanned, after.time if after else None)


class RunningJob(NamedTuple):
    """A running job: its id, the words of its record that never change, and its rows."""

    id: str
    head: JobHead
    rows: int


async def list_running(store: JobStore, longest_lease_s: float) -> list[RunningJob]:
    """Return the running jobs among the first MAX_TIMERS timers of each shard. `longest_lease_s`: of a live worker."""
    lease_ms = int(1000 * max(longest_lease_s, store.settings.lease_s))
    running: dict[str, RunningJob] = {}
    for root in store.roots:
        score, skip, looked_at, count = b"-inf", 0, 0, TIMERS_BATCH
        while count == TIMERS_BATCH and looked_at < MAX_TIMERS:
            answer = await store.run("job/list_running", root, score, skip, TIMERS_BATCH, lease_ms)
            count, score, skip, *found = answer
            looked_at += count
            for job_id, head, rows in zip(found[::3], found[1::3], found[2::3], strict=True):
                try:
                    running[job_id.decode()] = RunningJob(job_id.decode(), codec.read_head(head), int(rows))
                except ValueError:
                    continue
    return [*running.values()]


# ---- where the ids lie


async def open_lists(store: JobStore, query: JobFilter, scope: SearchScope, after: Position | None) -> MergedLists:
    """Return the lists that hold all matching jobs."""
    shards, states = range(store.settings.shards), query.states
    tenants = scope.tenants if query.tenant is None else [query.tenant]
    others: list[Position] = []
    if query.code and states - UNSUCCESSFUL:
        names = []  # only jobs that did not succeed have a code
    elif query.code or (states and states <= UNSUCCESSFUL):
        names = [keys.unsuccessful(shard, tenant) for tenant in tenants for shard in shards]
    elif states and states <= OPEN:
        names = await _queues(store, query, scope) if State.QUEUED in states else []
        others = await _positions_outside_queues(store, query, scope)
    else:
        names = [keys.tenant_jobs(shard, tenant) for tenant in tenants for shard in shards]
    span = (-inf if query.since_us is None else query.since_us, inf if query.until_us is None else query.until_us - 1)
    return MergedLists(store.connection, names, after, span, others)


async def _queues(store: JobStore, query: JobFilter, scope: SearchScope) -> list[str]:
    """Return the queues of the model versions, lanes and tenants that match, with those of suspects."""
    versions = [pair for pair in scope.versions if query.model in ("", pair[0]) and query.version in ("", pair[1])]
    routes = [(*pair, lane) for pair in versions for lane in ([query.lane] if query.lane else LANES)]
    names: set[str] = set()
    for shard in range(store.settings.shards):
        commands = [("LRANGE", keys.tenant_rotation(shard, *pair, "suspect"), 0, -1) for pair in versions]
        if query.tenant is None:
            commands += [("LRANGE", keys.tenant_rotation(shard, *route), 0, -1) for route in routes]
            commands += [("ZRANGE", keys.parked(shard), 0, MAX_PARKED - 1)]
        found = await store.connection.pipeline(commands) if commands else []
        groups, rotations = found[: len(versions)], found[len(versions) :]
        names |= {
            keys.queue(shard, *pair, "suspect", group.decode())
            for pair, members in zip(versions, groups, strict=True)
            for group in members
        }
        if query.tenant is not None:
            names |= {keys.queue(shard, *route, query.tenant) for route in routes}
            continue
        parked = rotations[-1] if rotations else []
        for route, members in zip(routes, rotations[:-1], strict=True):
            names |= {keys.queue(shard, *route, tenant.decode()) for tenant in (*members, *parked)}
    return sorted(names)


async def _positions_outside_queues(store: JobStore, query: JobFilter, scope: SearchScope) -> list[Position]:
    """Return the positions of matching jobs that run or wait for a retry."""
    found: list[tuple[State, str, JobHead]] = []
    if State.RUNNING in query.states:
        found += [(State.RUNNING, job.id, job.head) for job in await list_running(store, scope.longest_lease_s)]
    if State.QUEUED in query.states:
        found += [(State.QUEUED, job_id, head) for job_id, head in await _read_retries(store)]
    return [Position(head.created_us, job_id) for state, job_id, head in found if query.matches_head(state, head)]


async def _read_retries(store: JobStore) -> list[tuple[str, JobHead]]:
    """Return the jobs that wait for a retry."""
    found = []
    for shard in range(store.settings.shards):
        ids = [job_id.decode() for job_id in await _first_retries(store, shard)]
        for first in range(0, len(ids), READ_BATCH):
            part = ids[first : first + READ_BATCH]
            heads = await store.connection.pipeline([("HGET", keys.job(job_id), "head") for job_id in part])
            for job_id, head in zip(part, heads, strict=True):
                try:
                    found += [(job_id, codec.read_head(head))] if head else []
                except ValueError:
                    continue
    return found


async def _first_retries(store: JobStore, shard: int) -> Sequence[bytes]:
    ids: Sequence[bytes] = await store.connection.command("ZRANGE", keys.retries(shard), 0, MAX_RETRIES - 1)
    return ids


# ---- records


async def _read_matching(store: JobStore, query: JobFilter, listed: Sequence[Listed]) -> dict[str, Job]:
    """Return the jobs that match, by id. Jobs whose results have expired leave the list that had them."""
    if query.states - OPEN or not query.states:  # read from a list that others are in, too
        listed = await filter_by_head(store, query, listed) if _has_head_filter(query) else listed
    commands = [("HMGET", keys.job(each.position.id), *codec.LISTED_FIELDS) for each in listed]
    answers = await store.connection.pipeline(commands, large=True) if commands else []
    await _remove_expired(store, [each for each, values in zip(listed, answers, strict=True) if not any(values)])
    found = {}
    for each, values in zip(listed, answers, strict=True):
        job = codec.read_listed_job(each.position.id, values) if any(values) else None
        if job is not None and not _is_line(values) and _matches(query, job, values):
            found[job.id] = job
    return found


def _has_head_filter(query: JobFilter) -> bool:
    return bool(query.states or query.model or query.version or query.lane)


async def filter_by_head(store: JobStore, query: JobFilter, listed: Sequence[Listed]) -> list[Listed]:
    """Return those whose state and head match: of the others no more is read. Expired ones leave their list."""
    commands = [("HMGET", keys.job(each.position.id), "state", "head") for each in listed if not each.words]
    answers = iter(await store.connection.pipeline(commands) if commands else [])
    matching, expired = [], []
    for each in listed:
        if each.words:  # they have matched
            matching.append(each)
            continue
        state, head = next(answers)
        if not state and not head:
            expired.append(each)
        elif _matches_raw(query, state, head):
            matching.append(each)
    await _remove_expired(store, expired)
    return matching


def _matches_raw(query: JobFilter, state: bytes | None, head: bytes | None) -> bool:
    try:
        name = State((state or b"").decode().partition(" ")[0])
        return query.matches_head(name, codec.read_head(head or b""))
    except ValueError:
        return False


def _matches(query: JobFilter, job: Job, values: Sequence[bytes | None]) -> bool:
    return _matches_raw(query, values[0], values[1]) and query.matches_job(job)


def _is_line(values: Sequence[bytes | None]) -> bool:
    """Return whether the job is a line of a batch."""
    return bool(values[2]) and "bulk" in codec.read_facts(values[2])


async def _remove_expired(store: JobStore, expired: Sequence[Listed]) -> None:
    """Remove ids without a record from the lists of tenants; the scripts clean the queues."""
    commands = [
        ("ZREM", each.key, f"{each.position.id} {each.words}".rstrip())
        for each in expired
        if ":tenant_jobs:" in each.key or ":unsuccessful:" in each.key
    ]
    if commands:
        await store.connection.pipeline(commands)
