"""The state of an episode: settings, store and ledger, and their comparison after each call."""

import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from jobs.bulk.settings import BulkSettings
from jobs.contract.errors import DEAD_LETTER_CODES, StoreUnavailable
from jobs.contract.job import ClaimedJob, Handoff
from jobs.contract.lifecycle import FINAL, State
from jobs.redis_client import keys
from jobs.store import codec
from jobs.store.codec import OWN_KEY_BYTES
from jobs.store.job_store import JobStore
from jobs.store.raw_record import flatten
from jobs.store.settings import StoreSettings
from tests.long.store_stress.model.flaky import Fault, FlakyConnection, StubSubscriber
from tests.long.store_stress.model.kept import KeptDeadLetters
from tests.long.store_stress.model.ledger import Delivery, Job, Ledger, Moment, Violation, read_webhook
from tests.support.servers import Server

TENANTS: Final = ("a", "b", "c", "d")
STATIONS: Final = (("m", "1"), ("m", "2"), ("n", "1"))
WORKERS: Final = ("w1", "w2", "w3")
GATEWAYS: Final = ("g1", "g2")
GONE_MS: Final = 20  # a record may be removed so much before its time to live is over, as this test sees it
GATEWAY_LEASE_S: Final = 3600
AT_ONCE: Final = frozenset({State.QUEUED, State.RUNNING})
# How often a call meets a fault.
FATES: Final[dict[Fault, int]] = {"once": 90, "twice": 6, "lost": 3, "unsent": 1}


def draw_settings(rng: random.Random, url: str) -> StoreSettings:
    """Draw the settings of an episode: short times, small limits, several shards now and then."""
    limits = {
        "a": {"weight": rng.randint(1, 4), "jobs": rng.choice([6, 0]), "running": rng.choice([0, 2])},
        "b": {"bytes": rng.choice([2500, 0])},
        "c": {"weight": 2, "running": rng.choice([1, 3])},
    }
    return StoreSettings(
        redis_url=url,
        shards=rng.choice([1, 1, 1, 2, 3]),
        result_ttl_s=rng.choice([0.5, 1, 3]),
        idempotency_ttl_s=rng.choice([1, 60]),
        job_list_limit=rng.choice([5, 10_000]),
        max_jobs=rng.choice([30, 300]),
        max_input_bytes=rng.choice([20_000, 2 << 30]),
        lease_s=rng.choice([0.03, 0.1, 0.4]),
        max_lost_leases=rng.randint(2, 4),
        max_kills=rng.randint(2, 3),
        suspect_cooldown_s=rng.choice([0.001, 0.02]),
        dead_letter_ttl_s=rng.choice([0.5, 60]),
        dead_letters=rng.choice([6, 24, 1000]),
        dead_letter_bytes=rng.choice([3000, 1 << 28]),
        bulk_share=rng.choice([2, 8]),
        tenants=orjson.dumps(limits).decode(),
    )


class World:
    """The shared state of the steps of one episode."""

    def __init__(self, server: Server, rng: random.Random) -> None:
        self.server, self.rng = server, rng
        self.settings = draw_settings(rng, server.url)
        self.bulk = BulkSettings(bulk_files=rng.choice([8, 1000]), bulk_batches=1000, bulk_ttl_s=60)
        self.connection = FlakyConnection(server.url)
        self.tenants = self.settings.limits()
        self.limited_ms: dict[str, float] = {}  # tenants whose limits have changed: when last
        # A job has the lease of the worker that runs it, whatever the lease of others: the gateway's would never end.
        self.leases_s = {worker: self.settings.lease_s * rng.choice([1, 1, 3]) for worker in WORKERS}
        self.store = self._open_store(GATEWAY_LEASE_S)
        self.workers = {worker: self._open_store(lease_s) for worker, lease_s in self.leases_s.items()}
        self.ledger = Ledger()
        self.kept = KeptDeadLetters(self.store)
        self.is_flaky = True
        self.ears = StubSubscriber(self.connection, self._heard)
        self.handed: list[tuple[str, Handoff]] = []
        self.told: set[tuple[str, str]] = set()  # (gateway, job) of the notices
        self.deaf: set[str] = set()  # workers that lose what is handed over to them

    def _open_store(self, lease_s: float) -> JobStore:
        store = JobStore(self.settings.model_copy(update={"lease_s": lease_s}), self.connection)
        store.tenants = self.tenants
        return store

    async def open(self) -> None:
        self.ears.close()
        channels = [keys.wake_channel(worker) for worker in WORKERS] + [keys.gateway_channel(one) for one in GATEWAYS]
        await self.ears.open(channels)

    async def aclose(self) -> None:
        self.ears.close()
        await self.connection.aclose()

    def fate(self) -> Fault:
        """Draw what happens to the next script."""
        self.connection.fate = self.rng.choices(list(FATES), list(FATES.values()))[0] if self.is_flaky else "once"
        return self.connection.fate

    async def call(self, made: Callable[[], Awaitable[Any]]) -> tuple[Any, Moment, Fault]:
        """Make a call under a drawn fate; return its answer (None: lost), its time, and the fate."""
        fate = self.fate()
        begin_ms = now_ms()
        answer = None
        try:
            answer = await made()
        except StoreUnavailable as error:
            self.expect_outage(fate, error)
        if fate != "once":
            self.ledger.trace.append(f"  ({fate})")
        self.connection.fate = "once"
        return answer, Moment(begin_ms, now_ms()), fate

    def expect_outage(self, fate: Fault, error: StoreUnavailable) -> None:
        """Fail if a call reported an outage without one: the server refused the script."""
        if fate in ("once", "twice"):
            raise Violation(f"the server did not take a script: {error}") from error

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, among: Collection[str]) -> str:
        return self.rng.choice(list(among))

    def has_quota(self, tenant: str) -> bool:
        """Whether open jobs of this tenant are counted separately."""
        limits = self.tenants.limits(tenant)
        return bool(limits.jobs or limits.bytes)

    def quota_of_shard(self, limit: int) -> int:
        return max(1, limit // self.settings.shards) if limit else 1 << 53

    def running(self, tenant: str, shard: int) -> int:
        """Count the rows of a tenant's running jobs that hold a running mark; suspects in isolation hold none."""
        return sum(
            job.rows
            for job in self.ledger.open.values()
            if job.state == State.RUNNING and job.has_running_mark and job.shard == shard and job.sub.tenant == tenant
        )

    async def parked_before_change(self) -> set[tuple[int, str]]:
        """Read the parked tenants by shard that may run more by now: a sweep unparks them."""
        found = set()
        for shard, root in enumerate(self.store.roots if self.limited_ms else ()):
            for name, ms in await self.connection.command("ZRANGE", f"{root}:parked", 0, -1, "WITHSCORES"):
                if int(ms) <= self.limited_ms.get(name.decode(), 0):
                    found.add((shard, name.decode()))
        return found

    # ---- comparing with the store

    async def observe(self, allowed: Mapping[str, Iterable[State]], moment: Moment) -> None:
        """Read these jobs, and compare: each is in one of its allowed states, or unchanged."""
        ids = [job_id for job_id in allowed if job_id in self.ledger.jobs]
        if not ids:
            return
        found = await self.connection.pipeline([("HGETALL", keys.job(job_id)) for job_id in ids])
        if self._may_have_told(ids, found):
            await self.ears.catch_up()
        self._take_handed()
        for job_id, record in zip(ids, found, strict=True):
            self._compare(self.ledger.jobs[job_id], record, frozenset(allowed[job_id]), moment)
        self.ledger.steps["dead letter made room"] += await self.kept.compare(self.ledger.jobs, now_ms())

    def _may_have_told(self, ids: Sequence[str], found: Sequence[Mapping[bytes, bytes]]) -> bool:
        """Check the notifications that these transitions must have sent."""
        for job_id, record in zip(ids, found, strict=True):
            job = self.ledger.jobs[job_id]
            state = flatten(record).get("state")
            if not job.is_final and (job.watchers or not job.attempt) and state != job.state.value:
                return True
        return False

    def _compare(self, job: Job, record: Mapping[bytes, bytes], allowed: frozenset[State], moment: Moment) -> None:
        if not record:
            self._compare_gone(job, allowed, moment)
            return
        words = flatten(record)
        state = State(words["state"])
        if job.is_final:
            body = _body(record)
            same = (state, body, int(words["finished_us"])) == (job.state, job.body, job.finished_us)
            if not same:
                raise Violation(f"the final job {job.id} changed from {job} to {record}")
            return
        if not (state == job.state or state in allowed):
            raise Violation(f"job {job.id} went from {job.state} to {state.value}, allowed: {sorted(allowed)}; {job}")
        owner, attempt = words.get("owner", ""), int(words["attempts"])
        if state == State.RUNNING and (owner, attempt) != (job.owner, job.attempt):
            if attempt <= job.attempt:
                raise Violation(f"job {job.id} runs a second time under claim {attempt} of {owner}")
            job.owner, job.attempt = owner, attempt
            job.has_running_mark = bool(self.tenants.limits(job.sub.tenant).running) and b"suspect_group" not in record
            lease_ms = self.leases_s[owner] * 1000
            job.lease_from_ms, job.lease_until_ms = moment.begin_ms + lease_ms, moment.end_ms + lease_ms
        if state != job.state and state not in FINAL:  # of this too a gateway may have been told that follows it
            self.told -= {(gateway, job.id) for gateway in job.watchers}
        self.ledger.move(job, state)
        job.is_suspect = b"suspect_group" in record
        if state in FINAL:
            self._end(job, record, moment)

    def _compare_gone(self, job: Job, allowed: frozenset[State], moment: Moment) -> None:
        """A job has no record: right for one that ended long ago, and for a line of a bulk job."""
        if job.is_final:
            kept_ms = 0 if job.sub.bulk else self.settings.result_ttl_s * 1000
            is_over = moment.end_ms > job.final_ms + kept_ms - GONE_MS
            if not is_over:
                raise Violation(f"the result is gone too early of {job}, at {moment}")
            return
        ends = allowed & FINAL
        is_late = now_ms() - moment.begin_ms > self.settings.result_ttl_s * 1000 - GONE_MS  # this machine stood still
        is_right = len(ends) == 1 and (job.sub.bulk or is_late)
        if not is_right:
            raise Violation(f"the open job {job.id} is gone: {job}, at {moment}")
        self.ledger.move(job, next(iter(ends)))
        self._end(job, {}, moment)

    def _end(self, job: Job, record: Mapping[bytes, bytes], moment: Moment) -> None:
        job.body = _body(record)
        job.finished_us = int(flatten(record).get("finished_us", 0))
        job.final_ms = job.finished_us / 1000 if job.finished_us else moment.begin_ms
        self.ledger.end(job)
        missed = {gateway for gateway in job.watchers if (gateway, job.id) not in self.told}
        if missed:
            raise Violation(f"gateways {sorted(missed)} wait, and were not told of the end of {job}")
        if job.state == State.FAILED and orjson.loads(job.body or b"{}").get("code") in DEAD_LETTER_CODES:
            self.ledger.counts[f"faults:{job.sub.model}:{job.sub.version}"] += 1
            job.is_dead, job.is_forgotten = True, (b"body" not in record and len(job.sub.input) < OWN_KEY_BYTES)
            self.ledger.letters.setdefault(job.shard, []).append(job)
            if job.finished_us:
                self.kept.add(job)
        elif b"body" in record and job.state != State.SUCCEEDED:
            raise Violation(f"{job} keeps its input, and is no dead letter")
        if job.hook:
            url, events, headers = read_webhook(job.hook)
            if not events or job.state.value in events:
                one = Delivery(f"{job.id}-1", job.sub.tenant, url, job=job.id, headers=headers)
                self.ledger.deliveries[one.id] = one

    def _heard(self, channel: str, data: bytes) -> None:
        kind, _, name = channel.removeprefix("jitney:").partition(":")
        if kind == "wake" and data.startswith(codec.HANDOFF_PREFIX) and name not in self.deaf:
            station, handed = codec.read_handoff(data)
            if station not in {" ".join(one) for one in STATIONS}:
                raise Violation(f"{name} was handed {data!r}")
            self.handed.append((name, handed))
        elif kind == "gateway":
            for job_id, told in codec.read_notification(data):
                self.told.add((name, job_id))
                known = self.ledger.jobs.get(job_id)
                is_right = told is None or known is None or told.tenant == known.sub.tenant
                if not is_right:
                    raise Violation(f"gateway {name} was told of another tenant's {job_id}")

    def _take_handed(self) -> None:
        """Give workers the jobs that submit handed off to them."""
        handed, self.handed = self.handed, []
        for worker, one in handed:
            for claimed in one.jobs:
                job = self.ledger.jobs.get(claimed.id)
                if job is None:
                    raise Violation(f"{worker} was handed {claimed.id}, which nobody submitted")
                assert job is not None
                self.check_claimed(job, claimed._replace(input=claimed.input or bytes(job.sub.input)))
                limits = self.tenants.limits(job.sub.tenant)
                if limits.running:
                    raise Violation(f"{job.id} was handed over past its tenant's running limit")
                self.ledger.claims.append((worker, claimed))

    def check_claimed(self, job: Job, claimed: ClaimedJob) -> None:
        """A worker gets a job as it was submitted."""
        same = (claimed.input, claimed.created_us, claimed.rows) == (job.sub.input, job.created_us, job.sub.rows)
        if not same:
            raise Violation(f"job {job.id} came to a worker with other input, time or rows than it was accepted with")


def now_ms() -> float:
    return time.time() * 1000


def _body(record: Mapping[bytes, bytes]) -> bytes:
    """Give a record's output, which has a field of its own where it is large, or its error."""
    is_output = record.get(b"state", b"").startswith(b"succeeded")
    return record.get(b"error") or record.get(b"large_output") or (record.get(b"body") if is_output else b"") or b""
