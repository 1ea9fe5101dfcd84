"""Job store on Redis: submit, read, wait, cancel and list jobs; claim, extend, release and finish them.

Each state change is one atomic script per shard, for many jobs at once where possible. Gateways use the first half,
workers the second. Raises StoreUnavailable if Redis is unreachable or cannot write; other Redis errors do not escape.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Final, Literal, Protocol, TypeVar

from jobs.contract.errors import JitneyError, OverLimit, QueueFull, Refused, StoreFull, StoreUnavailable
from jobs.contract.ids import shard_of
from jobs.contract.job import LANES, RECORD_VERSION, Accepted, ClaimedJob, ClaimResult, Job, Lane, Outcome, Submission
from jobs.contract.lifecycle import State
from jobs.metrics import event_counters as counts
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.redis_client.pipelined_connection import Arg
from jobs.store import codec, inputs, outputs, record_pages
from jobs.store.outputs import OutputGone
from jobs.store.queue_states import read_queue_states
from jobs.store.record_pages import Position
from jobs.store.settings import StoreSettings
from jobs.store.submit_results import SubmitResults, caps_of
from jobs.tenants.usage import UsageBuffer

OpenState = Literal["queued", "running"]
CancelResult = Literal["canceled", "final", "other", "unknown"]
JOB_LIST_TTL_S = 7 * 86_400  # how long a tenant's list outlives its last submit, in addition to the result TTL
FULL_RETRY_AFTER_S = 5
READ_BATCH: Final = 100  # jobs per pipeline, so that other clients are served in between
FIELDS_BATCH: Final = 1000  # fields of a hash per reply of a scan
CANCEL_BATCH: Final = 25  # jobs that one script cancels, so that other clients are served in between
MAX_FINISH_BYTES: Final = 2 << 20  # of outputs per script; one outcome always fits
# Of jobs that one script submits, so that other callers are served in between; one job always fits.
MAX_SUBMIT_JOBS: Final = 100
MAX_SUBMIT_BYTES: Final = 1 << 20


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T")


def _shard(item: _HasId) -> int:
    return shard_of(item.id)


class JobStore:
    """Jobs, queues and leases in Redis. All times are the server's; local clocks are not used."""

    def __init__(self, settings: StoreSettings, connection: RedisClient) -> None:
        self.settings = settings
        self.connection = connection
        self.run = connection.script  # runs a script on the shard of a root key
        self.roots = [keys.root(shard) for shard in range(settings.shards)]
        self.ttl_ms = int(settings.result_ttl_s * 1000)
        # At least the result TTL: a dead letter is a result too.
        self.dead_ttl_ms = max(self.ttl_ms, int(settings.dead_letter_ttl_s * 1000))
        dead_caps = (settings.dead_letters // settings.shards, settings.dead_letter_bytes // settings.shards)
        self.retention_args = (self.ttl_ms, self.dead_ttl_ms, *(max(1, cap) for cap in dead_caps))
        self._lease_ms = int(settings.lease_s * 1000)
        list_ttl_s = JOB_LIST_TTL_S + int(settings.result_ttl_s)
        self._submit_args = (settings.idempotency_ttl_s, settings.job_list_limit, list_ttl_s)
        self.tenants = settings.limits()
        self.usage = UsageBuffer()
        self.listened: Collection[str] = frozenset()  # tenants whose jobs have listeners
        self._encoder = codec.SubmissionEncoder()
        self._next_shard = 0

    # ---- gateways

    async def submit(
        self, jobs: Sequence[Submission], waiting_gateway: str = "", *, closed: Collection[str] = ()
    ) -> list[Accepted | JitneyError]:
        """Accept jobs, many per script; return each job's result, in order. A refusal affects only its own job.

        `waiting_gateway` is notified when they end. `closed`: lanes that accept no new jobs, but still find earlier
        jobs by key. Results: Refused if a key was used with another request; after StoreUnavailable a job may or may
        not have been accepted.
        """
        large = [job for job in jobs if len(job.input) >= codec.OWN_KEY_BYTES]
        if not large and len(self.roots) == 1:
            return await self._submit_in_slices(self.roots[0], jobs, waiting_gateway, closed)
        results = await self._write_inputs(large) if large else {}
        groups = self._group_by_shard([job for job in jobs if job.id not in results] if results else jobs, _shard)
        calls = [self._submit_in_slices(root, group, waiting_gateway, closed) for root, group in groups]
        answers = await asyncio.gather(*calls) if len(calls) > 1 else [await call for call in calls]
        for (_, group), group_results in zip(groups, answers, strict=True):
            results |= {job.id: result for job, result in zip(group, group_results, strict=True)}
        if large:
            await self._drop_unused_inputs([job.id for job in large], results)
        return [results[job.id] for job in jobs]

    async def _write_inputs(self, jobs: Sequence[Submission]) -> dict[str, Accepted | JitneyError]:
        """Write large inputs; return the errors of the jobs that cannot be submitted."""
        try:
            await inputs.write_inputs(self.connection, jobs)
        except StoreFull:
            full = QueueFull("Redis is out of memory and accepts no new jobs", retry_after_s=FULL_RETRY_AFTER_S)
            return {job.id: full for job in jobs}
        except JitneyError as error:
            return {job.id: error for job in jobs}
        return {}

    async def _drop_unused_inputs(self, job_ids: Sequence[str], results: Mapping[str, Accepted | JitneyError]) -> None:
        """Delete large inputs of refused and replayed jobs; those of jobs of unknown fate expire."""
        unused = [
            job_id
            for job_id in job_ids
            if isinstance(result := results[job_id], Refused | OverLimit | QueueFull)
            or (isinstance(result, Accepted) and result.id != job_id)
        ]
        if unused:
            with suppress(StoreUnavailable):
                await inputs.drop_inputs(self.connection, unused)

    async def _submit_in_slices(
        self, root: str, jobs: Sequence[Submission], waiting_gateway: str, closed: Collection[str]
    ) -> list[Accepted | JitneyError]:
        """Submit jobs of one shard, by a script for each slice."""
        slices = _group_by_bytes(jobs, inputs.script_bytes, MAX_SUBMIT_BYTES, MAX_SUBMIT_JOBS)
        results = await self._submit(root, slices[0], waiting_gateway, closed)
        for part in slices[1:]:
            results += await self._submit(root, part, waiting_gateway, closed)
        return results

    async def _submit(
        self, root: str, jobs: Sequence[Submission], waiting_gateway: str, closed: Collection[str]
    ) -> list[Accepted | JitneyError]:
        args: list[Arg] = [waiting_gateway, *self._submit_args]
        args += [cap for lane in LANES for cap in ((0, 0) if lane in closed else caps_of(self.settings, lane))]
        args += self._encoder.submissions(jobs, self.tenants.quota, self.listened)
        try:
            answers = await self.run("job/submit", root, *args)
        except JitneyError as error:
            return [error] * len(jobs)
        for job, answer in zip(jobs, answers, strict=True):
            if isinstance(answer, bytes):
                self.usage.count_submitted(job)
        return [
            Accepted(job.id, int(answer), replayed=False)
            if isinstance(answer, bytes)
            else SubmitResults(self.settings, self.tenants).read(job, answer)
            for job, answer in zip(jobs, answers, strict=True)
        ]

    async def read(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Read jobs without large outputs (see `with_output`), READ_BATCH per round trip; None for unknown ones."""
        jobs: list[Job | None] = []
        for first in range(0, len(job_ids), READ_BATCH):
            ids = job_ids[first : first + READ_BATCH]
            found = await self.connection.pipeline([("HMGET", keys.job(id_), *codec.LISTED_FIELDS) for id_ in ids])
            listed = [codec.read_listed_job(job_id, values) for job_id, values in zip(ids, found, strict=True)]
            jobs += await self._with_small_outputs(listed)
        return jobs

    async def _with_small_outputs(self, jobs: Sequence[Job | None]) -> list[Job | None]:
        """Read the outputs of succeeded jobs, which lie where the inputs of open jobs do."""
        ended = [job.id for job in jobs if job is not None and job.state is State.SUCCEEDED and not job.output_bytes]
        if not ended:
            return list(jobs)
        outputs_read = await self.connection.pipeline([("HGET", keys.job(job_id), "body") for job_id in ended])
        found = dict(zip(ended, outputs_read, strict=True))
        read = [job._replace(output=found[job.id]) if job is not None and job.id in found else job for job in jobs]
        return [None if job is not None and job.id in found and job.output is None else job for job in read]  # expired

    async def with_output(self, job: Job) -> Job:
        """Return the job with its output, reading a large one. Raises Refused if it is no longer kept."""
        if job.output is not None or not job.output_bytes:
            return job
        try:
            pieces = [piece async for piece in outputs.read_pieces(self.connection, job)]
        except OutputGone:
            raise self.unknown(job.id) from None
        return job._replace(output=b"".join(pieces))

    async def wait(self, job_id: str, gateway: str) -> Job | None:
        """Read a job and, unless it is final, register this gateway to be notified of its end."""
        values = await self.run("job/read_and_wait", self._root_of(job_id), gateway, job_id)
        return codec.read_job(job_id, values)

    async def wait_for_many(self, job_ids: Sequence[str], gateway: str) -> dict[str, Job | None]:
        """Read different jobs as `wait` does, READ_BATCH per script; None for unknown ones."""

        async def read(root: str, ids: Sequence[str]) -> list[tuple[str, Job | None]]:
            found = await self.run("job/read_many_and_wait", root, gateway, *ids)
            return [(job_id, codec.read_job(job_id, values)) for job_id, values in zip(ids, found, strict=True)]

        answers = await asyncio.gather(*(read(root, ids) for root, ids in self._slices(job_ids, READ_BATCH)))
        return dict(pair for answer in answers for pair in answer)

    async def cancel(self, job_id: str, tenant: str | None) -> None:
        """Cancel a job. Raises Refused if it is final, or not this tenant's (None: any tenant)."""
        self._root_of(job_id)
        (answer,) = await self.cancel_many([job_id], tenant)
        if answer == "unknown":
            raise self.unknown(job_id)
        if answer == "final":
            raise Refused("job_already_final", f"job {job_id} has ended; only a queued or running job can be canceled")

    async def cancel_many(
        self, job_ids: Sequence[str], tenant: str | None, state: OpenState | None = None
    ) -> list[CancelResult]:
        """Cancel jobs of a tenant (None: of any), a few per script. `state`: only if they are in it (None: open).

        The result "other" stands for an open job in another state, "unknown" for one of another tenant, too.
        """
        results: dict[str, CancelResult] = {}
        for root, ids in self._slices(job_ids, CANCEL_BATCH):
            answers = await self.run("job/cancel", root, tenant or "", state or "", *self.retention_args, *ids)
            results |= {job_id: answer.decode() for job_id, answer in zip(ids, answers, strict=True)}
        return [results[job_id] for job_id in job_ids]

    async def newest(self, tenant: str, before_us: int, limit: int) -> tuple[list[Job], int | None]:
        """List a tenant's jobs accepted before a time, newest first, and the time to continue from (None: no more).

        Without outputs. Jobs whose results have expired leave the list.
        """

        async def read(ids: Sequence[str]) -> list[Job | None]:
            commands = [("HMGET", keys.job(job_id), *codec.LISTED_FIELDS) for job_id in ids]
            answers = dict(zip(ids, await self.connection.pipeline(commands, large=True), strict=True))
            if expired := [job_id for job_id, values in answers.items() if not any(values)]:
                await self.connection.pipeline(
                    [("ZREM", keys.tenant_jobs(shard_of(id_), tenant), id_) for id_ in expired]
                )
            return [codec.read_listed_job(job_id, values) for job_id, values in answers.items()]

        lists = [keys.tenant_jobs(shard, tenant) for shard in range(self.settings.shards)]
        page = await record_pages.read_page(self.connection, lists, read, Position(before_us, ""), limit)
        return page.records, page.after and page.after.time

    async def position(self, job: Job) -> int | None:
        """Return a queued job's position in its queue, from 1; None if it is not queued."""
        queue = keys.queue(shard_of(job.id), job.model, job.version, job.lane, job.tenant)
        rank = await self.connection.command("ZRANK", queue, job.id)
        return None if rank is None else int(rank) + 1

    async def counts(self) -> dict[str, int]:
        """Return the event counters, see `jobs.metrics.event_counters`."""
        totals: Counter[str] = Counter()
        for shard in range(self.settings.shards):
            (counted,) = await self.connection.pipeline([("HGETALL", keys.counts(shard))])
            totals.update(counts.sum_shard_counts(counted, await self._read_submitted_counts(shard)))
        return totals

    async def _read_submitted_counts(self, shard: int) -> dict[bytes, bytes]:
        """Return the submitted jobs by model. Scans the hash, because it also has fields per tenant."""
        submitted: dict[bytes, bytes] = {}
        cursor: bytes = b"0"
        while True:
            args = ("HSCAN", keys.open_totals(shard), cursor, "MATCH", "*:submitted", "COUNT", FIELDS_BATCH)
            cursor, fields = await self.connection.command(*args)
            submitted.update(zip(fields[::2], fields[1::2], strict=True))
            if int(cursor) == 0:
                return submitted

    async def job_totals(self, models: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return how many jobs of each of these models were submitted so far, and how many are open."""
        names = list(models)
        if not names:
            return {}
        fields = [f"{name}:{total}" for total in ("submitted", "jobs") for name in names]
        shards = await self.connection.pipeline(
            [("HMGET", keys.open_totals(shard), *fields) for shard in range(self.settings.shards)]
        )
        sums = [sum(int(count or 0) for count in counts) for counts in zip(*shards, strict=True)]
        return dict(zip(names, zip(sums[: len(names)], sums[len(names) :], strict=True), strict=True))

    async def depth(self, model: str, version: str) -> dict[str, int]:
        """Count the queued jobs of a model version by lane, and its suspects, which run in isolation."""
        return {
            lane: state.waiting
            for lane, state in (await read_queue_states(self.connection, self.roots, model, version)).items()
        }

    def unknown(self, job_id: str) -> Refused:
        """Return the same error for unknown, foreign and purged ids."""
        kept = f"{self.settings.result_ttl_s:g} s"
        return Refused("job_not_found", f"no job {job_id}; results are kept for {kept} after a job has ended")

    # ---- workers

    async def claim(
        self,
        model: str,
        version: str,
        worker: str,
        want: int,
        *,
        isolated: bool = False,
        max_bulk: int | None = None,
        paused_lane: Lane | None = None,
    ) -> ClaimResult:
        """Lease queued jobs up to `want` rows; submit hands jobs over to the slots that stay free.

        The last job may have more rows than are left of `want`. `max_bulk`: most rows of bulk jobs to claim; bulk does
        not use the free slots either. `isolated`: claim one suspect group for an isolated run and nothing else; nothing
        while another worker runs a group of this model. `paused_lane`: claim nothing of this lane, nor let submit hand
        its jobs over.
        """
        claim = ClaimResult([])
        for _ in self.roots:
            root = self.roots[self._next_shard]
            self._next_shard = (self._next_shard + 1) % len(self.roots)
            args = (model, version, worker, self._lease_ms, want - claim.rows, self.settings.bulk_share)
            most = "" if max_bulk is None else max_bulk - claim.bulk
            more: tuple[Arg, ...] = (
                RECORD_VERSION,
                int(isolated),
                len(self.roots),
                *self.retention_args,
                self.tenants.shares,
                most,
                *([paused_lane] if paused_lane else []),
            )
            claim = claim.merged_with(codec.read_claim(await self.run("job/claim", root, *args, *more)))
            if claim.rows >= want or claim.more or (isolated and claim.jobs):
                break
        return claim._replace(jobs=await self.read_inputs(claim.jobs))

    async def read_inputs(self, claimed: list[ClaimedJob]) -> list[ClaimedJob]:
        """Return claimed or handed-off jobs with their large inputs; a lost one stays None."""
        return await inputs.read_inputs(self.connection, claimed)

    async def extend(self, worker: str, held: Sequence[ClaimedJob]) -> list[ClaimedJob]:
        """Renew leases; return the jobs whose lease this worker has lost."""
        lost: list[ClaimedJob] = []
        for root, group in self._group_by_shard(held, _shard):
            args = [arg for job in group for arg in (job.id, job.attempt)]
            answers = await self.run("job/extend_leases", root, worker, self._lease_ms, *args)
            lost += [job for job, is_held in zip(group, answers, strict=True) if not is_held]
        return lost

    async def finish(self, worker: str, outcomes: Sequence[Outcome]) -> int:
        """Write outcomes; return how many were refused because the lease was lost."""
        refused = 0
        for root, group in self._group_by_shard(outcomes, _shard):
            for chunk in _group_by_bytes(group, lambda outcome: len(outcome.body), MAX_FINISH_BYTES):
                args = [arg for outcome in chunk for arg in codec.outcome_args(outcome)]
                refused += list(await self.run("job/finish", root, worker, *self.retention_args, *args)).count(0)
        return refused

    async def withdraw_free_slots(self, model: str, version: str, worker: str) -> None:
        """Stop handoffs to this worker; those already made may still arrive."""
        shards, entry = range(self.settings.shards), f"{worker} {self._lease_ms}"  # as claim.lua writes it
        await self.connection.pipeline([("ZREM", keys.free_slots(shard, model, version), entry) for shard in shards])

    async def release(self, worker: str, held: Sequence[ClaimedJob]) -> int:
        """Return unexecuted jobs to their queues; return how many were returned."""
        released = 0
        for root, group in self._group_by_shard(held, _shard):
            args = [arg for job in group for arg in (job.id, job.attempt)]
            released += int(await self.run("job/release", root, worker, *args))
        return released

    def _root_of(self, job_id: str) -> str:
        shard = shard_of(job_id)
        if shard >= self.settings.shards:
            raise self.unknown(job_id)
        return self.roots[shard]

    def _slices(self, job_ids: Sequence[str], size: int) -> Iterator[tuple[str, list[str]]]:
        """Yield the root of a shard and at most `size` ids of its jobs, until all ids are there."""
        for root, group in self._group_by_shard(job_ids, shard_of):
            for first in range(0, len(group), size):
                yield root, group[first : first + size]

    def _group_by_shard(self, items: Iterable[T], shard: Callable[[T], int]) -> list[tuple[str, list[T]]]:
        if len(self.roots) == 1:
            return [(self.roots[0], list(items))]
        return [(self.roots[nth], list(group)) for nth, group in groupby(sorted(items, key=shard), key=shard)]


def _group_by_bytes(
    items: Sequence[T], size_of: Callable[[T], int], limit_bytes: int, limit_items: int = 1 << 20
) -> list[Sequence[T]]:
    """Split items into groups of at most `limit_items` and `limit_bytes`; a larger item is a group by itself."""
    if len(items) <= limit_items and sum(map(size_of, items)) <= limit_bytes:
        return [items]
    groups: list[Sequence[T]] = []
    group: list[T] = []
    group_bytes = 0
    for item in items:
        size = size_of(item)
        if group and (group_bytes + size > limit_bytes or len(group) == limit_items):
            groups.append(group)
            group, group_bytes = [], 0
        group.append(item)
        group_bytes += size
    return [*groups, group]
