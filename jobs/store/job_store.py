"""The job store on Redis: every step of a job's life is one atomic script, for a whole batch where there is one.

Both sides use this class: the gateway submits, reads, waits, cancels and sweeps; a worker claims, extends and finishes.
Raises StoreUnavailable where the server can not be reached or can not write; nothing else of Redis shows through.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import Any, Final, Protocol, TypeVar

from jobs.contract.errors import JitneyError, OverLimit, QueueFull, Refused, StoreUnavailable
from jobs.contract.ids import shard_of
from jobs.contract.job import LANES, RECORD_VERSION, Accepted, ClaimedJob, ClaimResult, Job, Outcome, Submission
from jobs.metrics import event_counters as counts
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.redis_client.pipelined_connection import Arg
from jobs.store import codec
from jobs.store.settings import StoreSettings

JOB_LIST_TTL_S = 7 * 86_400  # how long a tenant's list is kept after its last submit; the time of a result comes on top
BROKEN_RETRY_AFTER_S = 60  # somebody must look at it
READ_BATCH: Final = 100  # jobs of one pipeline: others have their turn between
MAX_SCANNED: Final = 1000  # listed jobs that one page looks at, whether or not their results are kept
MIN_SCANNED: Final = 20  # at a time
TENANTS_BATCH: Final = 1000  # whose lines are counted in one script
MAX_FINISH_BYTES: Final = 16 << 20  # of outputs in one script; one outcome always fits


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


H = TypeVar("H", bound=_HasId)


class JobStore:
    """All jobs, their lines and leases. Times are the server's: no clock of ours decides anything."""

    def __init__(self, settings: StoreSettings, connection: RedisClient) -> None:
        self.settings = settings
        self.connection = connection
        self.roots = [keys.root(shard) for shard in range(settings.shards)]
        self.ttl_ms = int(settings.result_ttl_s * 1000)
        # A dead letter is a result too: its record must not go before other results do.
        self.dead_ttl_ms = max(self.ttl_ms, int(settings.dead_letter_ttl_s * 1000))
        dead_caps = (settings.dead_letters // settings.shards, settings.dead_letter_bytes // settings.shards)
        self.ends = (self.ttl_ms, self.dead_ttl_ms, *(max(1, cap) for cap in dead_caps))
        self._lease_ms = int(settings.lease_s * 1000)
        # Bulk leaves a tenth of the room to interactive jobs, so that no night's work locks the door for the day.
        room = [max(1, cap // settings.shards) for cap in (settings.max_jobs, settings.max_input_bytes)]
        self._caps = {lane: [max(1, cap * 9 // 10) if lane == "bulk" else cap for cap in room] for lane in LANES}
        self.tenants = settings.limits()
        self.listened: Collection[str] = frozenset()  # tenants to whose jobs somebody listens
        self._writer = codec.SubmissionEncoder()
        self._next_shard = 0

    # ---- the gateway's side

    async def submit(
        self, jobs: Sequence[Submission], waiting_gateway: str = "", *, closed: Collection[str] = ()
    ) -> list[Accepted | JitneyError]:
        """Accept jobs, in one script a shard; gives what became of each, in order: one refusal meets no other job.

        A gateway named here hears of their end. `closed`: lanes of which only those are found that a key made before.
        Refused: its key was used with another request. StoreUnavailable: it may have been taken all the same.
        """
        groups = self._group_by_shard(jobs)
        calls = [self._submit(root, group, waiting_gateway, closed) for root, group in groups]
        answers = await asyncio.gather(*calls) if len(calls) > 1 else [await call for call in calls]
        verdicts = {
            job.id: verdict
            for (_, group), of_group in zip(groups, answers, strict=True)
            for job, verdict in zip(group, of_group, strict=True)
        }
        return [verdicts[job.id] for job in jobs]

    async def _submit(
        self, root: str, jobs: Sequence[Submission], waiting_gateway: str, closed: Collection[str]
    ) -> list[Accepted | JitneyError]:
        s = self.settings
        caps = [cap for lane in LANES for cap in ((0, 0) if lane in closed else self._caps[lane])]
        words = [word for job in jobs for word in self._writer.submission(job, *self._tenant_args(job.tenant))]
        head = (waiting_gateway, s.idempotency_ttl_s, s.job_list_limit, JOB_LIST_TTL_S + int(s.result_ttl_s))
        try:
            answers = await self.run("job/submit", root, *head, *caps, *words)
        except JitneyError as error:
            return [error] * len(jobs)
        return [self._verdict(job, *answer) for job, answer in zip(jobs, answers, strict=True)]

    def _tenant_args(self, tenant: str) -> tuple[str, str]:
        return self.tenants.quota(tenant), "1" if tenant in self.listened else ""

    def _verdict(self, job: Submission, how: bytes, first: bytes, second: bytes) -> Accepted | JitneyError:
        if how == b"mismatch":
            message = f"Idempotency-Key {job.idempotency_key!r} was used with another request"
            return Refused("idempotency_mismatch", message)
        if how == b"broken":
            message = f"what lies in the queue in place of the line of model {job.model} is no line"
            return StoreUnavailable(message, retry_after_s=BROKEN_RETRY_AFTER_S)
        if how in (b"quota", b"full"):
            refuse = self._over_quota if how == b"quota" else self._full
            return self._refuse_oversized(job) or refuse(job, int(first), int(second))
        return Accepted(first.decode(), int(second), replayed=how == b"replayed")

    async def read(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Read jobs, a hundred in one round trip; without outputs that are large, see `with_output`."""
        found: list[Job | None] = []
        for first in range(0, len(job_ids), READ_BATCH):
            ids = job_ids[first : first + READ_BATCH]
            answers = await self.connection.pipeline([("HMGET", keys.job(one), *codec.READ_FIELDS) for one in ids])
            found += [codec.read_job(job_id, values) for job_id, values in zip(ids, answers, strict=True)]
        return found

    async def with_output(self, job: Job) -> Job:
        """Give a job with its output, read by itself where it is large. Raises Refused where it is kept no more."""
        if job.output is not None or not job.output_bytes:
            return job
        (output,) = await self.connection.pipeline([("HGET", keys.job(job.id), "large_output")], large=True)
        if output is None:
            raise self.unknown(job.id)
        return job._replace(output=output)

    async def wait(self, job_id: str, gateway: str) -> Job | None:
        """Read a job and, while it is not final, have its end told to this gateway."""
        values = await self.run("job/read_and_wait", self._root_of(job_id), gateway, job_id, *codec.READ_FIELDS)
        return codec.read_job(job_id, values)

    async def cancel(self, job_id: str, tenant: str) -> None:
        """Cancel a job. Raises Refused where it is final already, or not this tenant's."""
        answer = await self.run("job/cancel", self._root_of(job_id), job_id, tenant, *self.ends)
        if answer == b"unknown":
            raise self.unknown(job_id)
        if answer == b"final":
            raise Refused("job_already_final", f"job {job_id} has ended; only a queued or running job can be canceled")

    async def newest(self, tenant: str, before_us: int, limit: int) -> tuple[list[Job], int | None]:
        """List a tenant's jobs accepted before a time, newest first, and the time to go on from (None: no more).

        Without their outputs. A page may hold fewer than `limit`, even none, and have a next one: results that are kept
        no more leave the list, and one page looks at so many only.
        """
        kept: list[Job] = []
        looked = 0
        while looked < MAX_SCANNED:
            count = min(READ_BATCH, max(limit - len(kept), MIN_SCANNED))
            found = await self._listed(tenant, before_us, count)
            commands = [("HMGET", keys.job(job_id), *codec.LISTED_FIELDS) for job_id, _ in found]
            answers = await self.connection.pipeline(commands, large=True) if found else []
            gone = [job_id for (job_id, _), values in zip(found, answers, strict=True) if not any(values)]
            if gone:
                await self.connection.pipeline([("ZREM", keys.tenant_jobs(shard_of(one), tenant), one) for one in gone])
            for (job_id, us), values in zip(found, answers, strict=True):
                before_us = us
                if any(values) and (job := codec.read_listed_job(job_id, values)) is not None:
                    kept.append(job)
                if len(kept) == limit:
                    return kept, before_us
            if len(found) < count:
                return kept, None
            looked += count
        return kept, before_us

    async def _listed(self, tenant: str, before_us: int, count: int) -> list[tuple[str, int]]:
        """List the next ids of a tenant's list, newest first, each with the time of its acceptance."""
        words = (f"({before_us}", "-inf", "WITHSCORES", "LIMIT", 0, count)
        commands = [
            ("ZREVRANGEBYSCORE", keys.tenant_jobs(shard, tenant), *words) for shard in range(self.settings.shards)
        ]
        answers = await self.connection.pipeline(commands)
        found = [(job_id.decode(), int(us)) for answer in answers for job_id, us in answer]
        return sorted(found, key=lambda one: -one[1])[:count]

    async def position(self, job: Job) -> int | None:
        """Count from 1 where a queued job stands in its line; None once it has left."""
        line = keys.queue(shard_of(job.id), job.model, job.version, job.lane, job.tenant)
        rank = await self.connection.command("ZRANK", line, job.id)
        return None if rank is None else int(rank) + 1

    async def counts(self) -> dict[str, int]:
        """Count what has happened since the queue began, see `jobs.metrics.event_counters`."""
        totals: Counter[str] = Counter()
        for shard in range(self.settings.shards):
            (counted,) = await self.connection.pipeline([("HGETALL", keys.counts(shard))])
            totals.update(counts.sum_shard_counts(counted, await self._read_submitted_counts(shard)))
        return totals

    async def _read_submitted_counts(self, shard: int) -> dict[bytes, bytes]:
        """Read how many jobs were submitted, by model: some fields at a time, for tenants have fields beside them."""
        found: dict[bytes, bytes] = {}
        cursor: bytes = b"0"
        while True:
            words = ("HSCAN", keys.open_totals(shard), cursor, "MATCH", "*:submitted", "COUNT", TENANTS_BATCH)
            cursor, fields = await self.connection.command(*words)
            found.update(zip(fields[::2], fields[1::2], strict=True))
            if int(cursor) == 0:
                return found

    async def depth(self, model: str, version: str) -> dict[str, int]:
        """Count the waiting jobs of a model version, by lane; suspects, who are tried apart, by themselves."""
        sums = [0, 0, 0]
        for root in self.roots:
            first, more = 0, 1
            while more:
                more, *waiting = await self.run("job/queue_depth", root, model, version, first, TENANTS_BATCH)
                sums = [sum(pair) for pair in zip(sums, waiting, strict=True)]
                first += TENANTS_BATCH
        return dict(zip((*LANES, "suspect"), sums, strict=True))

    def _refuse_oversized(self, job: Submission) -> Refused | None:
        """Refuse a job that no wait helps, whichever limit it met: its input alone is above a limit for the sum."""
        limits = [(self._caps[job.lane][1], f"the inputs of model {job.model} in lane {job.lane}")]
        if self.tenants.limits(job.tenant).bytes:
            most_of_tenant = int(self.tenants.quota(job.tenant).split()[1])  # on one shard, as submit.lua counts
            limits.append((most_of_tenant, "the inputs of all your open jobs"))
        most, what = min(limits)
        if len(job.input) <= most:
            return None
        message = f"the input has {len(job.input)} bytes, and {what} may have {most}: no wait helps, send less"
        return Refused("body_too_large", message, limit_bytes=most)

    def _full(self, job: Submission, jobs: int, size: int) -> JitneyError:
        s = self.settings
        message = f"{jobs} jobs of model {job.model} with {size} bytes of input are open already"
        limits = {"limit_jobs": s.max_jobs, "limit_bytes": s.max_input_bytes}
        return QueueFull(message, model=job.model, **limits)

    def _over_quota(self, job: Submission, jobs: int, size: int) -> JitneyError:
        limits = self.tenants.limits(job.tenant)
        message = f"{jobs} jobs with {size} bytes of input are open already, and this one is beyond what you may have"
        bounds = {"limit_jobs": limits.jobs, "limit_bytes": limits.bytes}
        return OverLimit("quota_exceeded", message, **{name: bound for name, bound in bounds.items() if bound})

    def unknown(self, job_id: str) -> Refused:
        """Say that there is no such job: one answer for unknown, foreign and purged ids."""
        kept = f"{self.settings.result_ttl_s:g} s"
        return Refused("job_not_found", f"no job {job_id}; results are kept for {kept} after a job has ended")

    # ---- the worker's side

    async def claim(
        self, model: str, version: str, worker: str, want: int, *, trial: bool = False, max_bulk: int | None = None
    ) -> ClaimResult:
        """Take up to `want` waiting jobs under a lease; submit hands jobs over to the seats that are left free.

        With `max_bulk`, bulk jobs take so many seats, and not those too that stay empty. On trial: the suspects of
        one cell, and nobody else; none while another worker tries a cell of this model.
        """
        claim = ClaimResult([])
        for _ in self.roots:
            root = self.roots[self._next_shard]
            self._next_shard = (self._next_shard + 1) % len(self.roots)
            words = (model, version, worker, self._lease_ms, want - len(claim.jobs), self.settings.bulk_share)
            most = "" if max_bulk is None else max_bulk - claim.bulk
            how: tuple[Arg, ...] = (RECORD_VERSION, int(trial), len(self.roots), *self.ends, self.tenants.shares, most)
            claim = claim.merged_with(codec.read_claim(await self.run("job/claim", root, *words, *how)))
            if len(claim.jobs) >= want or claim.more or (trial and claim.jobs):
                break
        return claim

    async def extend(self, worker: str, held: Sequence[ClaimedJob]) -> list[ClaimedJob]:
        """Renew the leases; returns the jobs that are no longer this worker's."""
        lost: list[ClaimedJob] = []
        for root, group in self._group_by_shard(held):
            words = [word for job in group for word in (job.id, job.attempt)]
            answers = await self.run("job/extend_leases", root, worker, self._lease_ms, *words)
            lost += [job for job, mine in zip(group, answers, strict=True) if not mine]
        return lost

    async def finish(self, worker: str, outcomes: Sequence[Outcome]) -> int:
        """Write down how jobs ended; returns how many were refused because they were no longer this worker's."""
        refused = 0
        for root, group in self._group_by_shard(outcomes):
            for some in _group_by_bytes(group, MAX_FINISH_BYTES):
                words = [word for outcome in some for word in codec.outcome_args(outcome)]
                refused += list(await self.run("job/finish", root, worker, *self.ends, *words)).count(0)
        return refused

    async def withdraw_free_slots(self, model: str, version: str, worker: str) -> None:
        """Have no more jobs handed over; those that were before this are still to arrive."""
        shards, note = range(self.settings.shards), f"{worker} {self._lease_ms}"  # as claim.lua notes it
        await self.connection.pipeline(
            [("ZREM", keys.free_slots(shard, model, version), note) for shard in shards]
            + [("SREM", keys.hosts(shard, model, version), note) for shard in shards]
        )

    async def release(self, worker: str, held: Sequence[ClaimedJob]) -> int:
        """Give jobs back unrun; returns how many went back to their lines."""
        back = 0
        for root, group in self._group_by_shard(held):
            words = [word for job in group for word in (job.id, job.attempt)]
            back += int(await self.run("job/release", root, worker, *words))
        return back

    async def run(self, script: str, root: str, *words: Arg) -> Any:
        """Run a script on one shard."""
        return await self.connection.script(script, root, *words)

    def _root_of(self, job_id: str) -> str:
        shard = shard_of(job_id)
        if shard >= self.settings.shards:
            raise self.unknown(job_id)
        return self.roots[shard]

    def _group_by_shard(self, jobs: Iterable[H]) -> list[tuple[str, list[H]]]:
        if len(self.roots) == 1:
            return [(self.roots[0], list(jobs))]
        ordered = sorted(jobs, key=lambda job: shard_of(job.id))
        return [(self.roots[shard], list(group)) for shard, group in groupby(ordered, key=lambda job: shard_of(job.id))]


def _group_by_bytes(outcomes: Sequence[Outcome], limit_bytes: int) -> list[Sequence[Outcome]]:
    """Part outcomes into groups whose bodies have so many bytes at most; a larger one is a group by itself."""
    if sum(len(one.body) for one in outcomes) <= limit_bytes:
        return [outcomes]
    groups: list[Sequence[Outcome]] = []
    group: list[Outcome] = []
    size = 0
    for one in outcomes:
        if group and size + len(one.body) > limit_bytes:
            groups.append(group)
            group, size = [], 0
        group.append(one)
        size += len(one.body)
    return [*groups, group]
