"""Steps of callers: submit, cancel, wait, follow, list."""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from jobs.contract.errors import JitneyError, OverLimit, QueueFull, Refused, StoreUnavailable
from jobs.contract.ids import choose_shard
from jobs.contract.job import LANES, Accepted, Submission
from jobs.contract.job import Job as Read
from jobs.contract.lifecycle import FINAL, State
from jobs.store import events
from tests.long.store_stress.model.ledger import Job, KnownIdempotencyKey, Moment, Violation
from tests.long.store_stress.model.world import AT_ONCE, GATEWAYS, STATIONS, TENANTS, World

SMALL: Final = 16 << 10  # bytes of an output that is read with its job
LARGE: Final = 33 << 10  # more than is handed over to a worker at once
DEADLINES_MS: Final = (10, 40, 150, 600, 60_000, 60_000, 60_000)
KEY_SLACK_MS: Final = 20
HOOKS: Final = (
    "https://one.example:443 https://one.example/hook",
    "https://one.example:443 https://one.example/hook succeeded",
    "https://two.example:443 https://two.example/hook",
    "https://three.example:443 https://three.example/hook canceled failed",
    'https://one.example:443 https://one.example/mine\n{"authorization":"Bearer x","x-a":"1"}',
    'https://two.example:443 https://two.example/hook expired succeeded\n{"x-a":"2"}',
)
BULK_HOOKS: Final = (HOOKS[0], HOOKS[4])


def draw(world: World, tenant: str, key: str = "") -> Submission:
    """Draw a job."""
    rng = world.rng
    model, version = rng.choice(STATIONS)
    rows = rng.choice([1, 2, 3, 7]) if world.chance(0.2) else 0
    shard = choose_shard(world.settings.shards, tenant, key) if key else rng.randrange(world.settings.shards)
    return Submission(
        id=f"{shard:02d}{rng.getrandbits(128):032x}",
        model=model,
        version=version,
        kind="raw",
        input=rng.randbytes((rows or 1) * (LARGE if world.chance(0.02) else rng.randint(1, 400 // (rows or 1)))),
        tenant=tenant,
        lane="bulk" if world.chance(0.3) else "interactive",
        deadline_ms=rng.choice(DEADLINES_MS),
        idempotency_key=key,
        digest=rng.choice(["x" * 28, "x" * 28, "y" * 28]) if key else "",
        webhook=rng.choice(HOOKS) if world.chance(0.25) else "",
        rows=rows,
    )


async def submit(world: World) -> None:
    """Submit one job or several, now and then under a key that was used before."""
    rng = world.rng
    tenant = rng.choice(TENANTS)
    count = rng.choice([1, 1, 1, 2, 5, 12])
    keyed = world.chance(0.25)
    word = rng.choice(["k1", "k2", "k3"])
    names = [f"{word} {place}" if count > 1 else word for place in range(count)] if keyed else [""] * count
    jobs = [draw(world, tenant if keyed else rng.choice(TENANTS), name) for name in names]
    closed = {rng.choice(LANES)} if world.chance(0.03) else set()
    await submit_jobs(world, jobs, closed)


class Call(NamedTuple):
    """One call of submit: its waiter, its time, the closed lanes, and whether the script ran twice."""

    gateway: str
    moment: Moment
    closed: Collection[str]
    is_second: bool


async def submit_jobs(world: World, jobs: Sequence[Submission], closed: Collection[str] = ()) -> list[bool]:
    """Submit jobs, and compare each verdict with the ledger; return the accepted ones."""
    gateway = world.rng.choice(["", "", *GATEWAYS])
    verdicts, moment, fate = await world.call(lambda: world.store.submit(jobs, gateway, closed=closed))
    call = Call(gateway, moment, closed, fate == "twice")
    accepted = []
    for job, heard in zip(jobs, verdicts, strict=True):
        verdict: Accepted | JitneyError | None = heard
        if isinstance(heard, StoreUnavailable):
            world.expect_outage(fate, heard)
            verdict = await _was_accepted(world, job) if fate == "lost" else None
        accepted.append(isinstance(verdict, Accepted))
        _take_verdict(world, job, verdict, call)
    await world.observe({job.id: AT_ONCE for job in jobs if job.id in world.ledger.open}, moment)
    return accepted


async def _was_accepted(world: World, job: Submission) -> Accepted | None:
    """The answer was lost: check whether the job was accepted."""
    (found,) = await world.store.read([job.id])
    return None if found is None else Accepted(job.id, found.created_us, replayed=False)


def _take_verdict(world: World, job: Submission, verdict: Accepted | JitneyError | None, call: Call) -> None:
    """Compare a verdict with the ledger, and record it."""
    if verdict is None:
        return
    ledger = world.ledger
    known = ledger.keys.get((job.tenant, job.idempotency_key)) if job.idempotency_key else None
    if known is not None and call.moment.end_ms < known.until_ms - KEY_SLACK_MS:
        is_right = isinstance(verdict, Refused) and verdict.code == "idempotency_mismatch"
        if known.digest == job.digest:
            is_right = isinstance(verdict, Accepted) and verdict.id == known.job_id
        if not is_right:
            raise Violation(f"the key of {known} gave {verdict} for {job}")
    if isinstance(verdict, Accepted):
        _take_accepted(world, job, verdict, call, known)
    elif known is None or not isinstance(verdict, Refused):
        # The second of two calls finds what the first one took, and may meet another limit before. Outputs that are
        # kept may be why the first one refused the job; only a refusal by quota says how many bytes those are.
        kept = _most_kept(world, job.tenant) if call.is_second else 0
        is_right = _may_refuse(world, job, verdict, call) or (call.is_second and not _has_room(world, job, kept))
        if not is_right:
            raise Violation(f"{job._replace(input=job.input[:8])} was refused without a reason: {verdict!r}")
        ledger.steps[f"refused: {verdict.code}"] += 1


def _take_accepted(
    world: World, job: Submission, verdict: Accepted, call: Call, known: KnownIdempotencyKey | None
) -> None:
    ledger = world.ledger
    if known is not None and verdict.id == known.job_id:
        earlier = ledger.jobs.get(verdict.id)
        if call.gateway and earlier is not None and not earlier.is_final:
            earlier.watchers.add(call.gateway)
        ledger.steps["replayed"] += 1
        return
    if verdict.id != job.id:
        raise Violation(f"{job.id} was accepted as {verdict.id}, which is another job")
    before = ledger.jobs.get(job.id)
    if before is None or (before.is_final and job.bulk and before.created_us != verdict.created_us):
        if not _has_room(world, job):
            raise Violation(f"{job} was accepted beyond a limit")
        one = Job(job, verdict.created_us, hook=job.webhook, is_rerun=before is not None)
        one.is_logged = job.tenant in world.store.listened
        one.has_quota = world.has_quota(job.tenant)
        ledger.accept(one)
        if job.idempotency_key:
            until_ms = call.moment.begin_ms + world.settings.idempotency_ttl_s * 1000
            ledger.keys[job.tenant, job.idempotency_key] = KnownIdempotencyKey(job.id, job.digest, until_ms)
    if call.gateway and not ledger.jobs[job.id].is_final:
        ledger.jobs[job.id].watchers.add(call.gateway)


def _room(world: World, job: Submission, kept: int = 0) -> dict[str, bool]:
    """Whether each limit leaves room for this job. `kept`: bytes of outputs that the store counts for its tenant."""
    s, loads, shard = world.settings, world.ledger.loads, int(job.id[:2])
    limits = world.tenants.limits(job.tenant)
    share = [max(1, cap // s.shards) for cap in (s.max_jobs, s.max_input_bytes)]
    most, most_bytes = [cap * 9 // 10 if job.lane == "bulk" else cap for cap in share]
    whose, size, rows = f"@{job.tenant}", len(job.input), job.rows or 1
    return {
        "queue_full": loads[shard, f"{job.model}:jobs"] + rows <= most
        and loads[shard, f"{job.model}:bytes"] + size <= most_bytes,
        "quota_exceeded": loads[shard, f"{whose}:jobs"] + rows <= world.quota_of_shard(limits.jobs)
        and loads[shard, f"{whose}:bytes"] + kept + size <= world.quota_of_shard(limits.bytes),
    }


def _has_room(world: World, job: Submission, kept: int = 0) -> bool:
    return all(_room(world, job, kept).values())


def _most_kept(world: World, tenant: str) -> int:
    """The bytes of all outputs that a tenant ever had."""
    return sum(len(one.body) for one in world.ledger.jobs.values() if one.is_final and one.sub.tenant == tenant)


def _may_refuse(world: World, job: Submission, verdict: JitneyError, call: Call) -> bool:
    if isinstance(verdict, QueueFull) and job.lane in call.closed:
        return True
    if isinstance(verdict, Refused):
        if verdict.code == "invalid_request":
            return job.rows > _most_rows(world, job)
        return verdict.code == "body_too_large" and len(job.input) > _most_bytes(world, job)
    is_limit, kept = isinstance(verdict, (QueueFull, OverLimit)), int(verdict.details.get("output_bytes", 0))
    if kept > _most_kept(world, job.tenant):
        return False
    is_possible = len(job.input) <= _most_bytes(world, job) and job.rows <= _most_rows(world, job)
    return is_limit and not _room(world, job, kept)[verdict.code] and is_possible


def _most_bytes(world: World, job: Submission) -> int:
    """Return the maximum bytes of one input: a larger one is refused for good."""
    settings = world.store.settings
    most = settings.max_input_bytes // settings.shards
    of_tenant = world.tenants.limits(job.tenant).bytes // settings.shards
    return min(most * 9 // 10 if job.lane == "bulk" else most, of_tenant or most)


def _most_rows(world: World, job: Submission) -> int:
    """Return the maximum rows of one job: one with more is refused for good."""
    settings = world.settings
    most = max(1, settings.max_jobs // settings.shards)
    most = max(1, most * 9 // 10) if job.lane == "bulk" else most
    return min(most, world.quota_of_shard(world.tenants.limits(job.tenant).jobs))


def any_id(world: World) -> str:
    """Pick a job: mostly an open one, otherwise a recently ended or an unknown one."""
    ledger = world.ledger
    if ledger.open and world.chance(0.7):
        return world.pick(ledger.open)
    if ledger.ended and world.chance(0.9):
        return world.pick(ledger.ended)
    return f"00{world.rng.getrandbits(128):032x}"


async def cancel(world: World) -> None:
    """Cancel a job, now and then another tenant's."""
    job_id = any_id(world)
    job = world.ledger.jobs.get(job_id)
    tenant = job.sub.tenant if job is not None and world.chance(0.85) else world.rng.choice(TENANTS)
    refusal = ""

    async def made() -> bool:
        nonlocal refusal
        try:
            await world.store.cancel(job_id, tenant)
        except Refused as error:
            refusal = error.code
        return True

    answer, moment, _ = await world.call(made)
    if answer is not None:
        check_cancel(job, tenant, refusal, moment)
    if job is not None:
        is_canceled = tenant == job.sub.tenant and not job.is_final and not refusal
        ends = ({State.CANCELED} if is_canceled else set()) | _may_expire(job, moment)
        await world.observe({job_id: ends}, moment)


def check_cancel(job: Job | None, tenant: str, refusal: str, moment: Moment) -> None:
    """Compare the answer with the state of the job."""
    if job is None or tenant != job.sub.tenant:
        wanted = {"job_not_found"}
    elif job.is_final:
        wanted = {"job_already_final", "job_not_found"}
    else:
        wanted = {"", "job_already_final"} if job.may_be_overdue(moment) else {""}
    if refusal not in wanted:
        raise Violation(f"cancel gave {refusal!r}, not one of {wanted}, for {job}")


def _may_expire(job: Job, moment: Moment) -> set[State]:
    return {State.EXPIRED} if not job.is_final and job.may_be_overdue(moment) else set()


async def wait(world: World) -> None:
    """Wait for a job: read it and subscribe to its end."""
    job_id, gateway = any_id(world), world.rng.choice(GATEWAYS)
    job = world.ledger.jobs.get(job_id)
    read, moment, fate = await world.call(lambda: world.store.wait(job_id, gateway))
    if job is None:
        if read is not None:
            raise Violation(f"{job_id} was read, and nobody submitted it")
        return
    if fate != "unsent" and not job.is_final:
        job.watchers.add(gateway)
    if read is not None:
        is_right = (read.state, read.attempts, read.tenant) == (job.state, max(job.attempt, 0), job.sub.tenant)
        if not is_right:
            raise Violation(f"{read} was read for {job}")
        if job.state == State.SUCCEEDED:
            await _check_output(world, job, read)
    await world.observe({job_id: ()}, moment)


async def _check_output(world: World, job: Job, read: Read) -> None:
    """A large output is read separately; it may have expired by then."""
    try:
        whole = await world.store.with_output(read)
    except Refused:
        return
    is_right = whole.output == job.body or not job.body
    if not is_right or (read.output is None) != (len(job.body) > SMALL):
        raise Violation(f"{whole} was read for {job}")


async def follow(world: World) -> None:
    """Follow a job: its history must end in its current state."""
    job_id, gateway = any_id(world), world.rng.choice(GATEWAYS)
    job = world.ledger.jobs.get(job_id)
    answer, moment, fate = await world.call(lambda: events.follow_job(world.store, job_id, gateway))
    if job is None:
        if answer is not None and answer[0] is not None:
            raise Violation(f"{job_id} was followed, and nobody submitted it")
        return
    if fate != "unsent" and not job.is_final:
        job.watchers.add(gateway)
    if answer is not None and answer[0] is not None:
        read, changes = answer
        states = [change.state for change in changes]
        legal = states[0] == State.QUEUED and states[-1] == job.state and not set(states[:-1]) & FINAL
        if not legal:
            raise Violation(f"the history {states} of {job}")
        if read.attempts != job.attempt:
            raise Violation(f"{read} was read for {job}")
    await world.observe({job_id: ()}, moment)


async def list_newest(world: World) -> None:
    """List a tenant's jobs: its own, newest first, each as it stands."""
    tenant = world.rng.choice(TENANTS)
    before_us = (
        world.rng.choice([1 << 60, int(world.rng.choice([*world.ledger.jobs.values()]).created_us)])
        if world.ledger.jobs
        else 1 << 60
    )
    answer, _, _ = await world.call(lambda: world.store.newest(tenant, before_us, 20))
    jobs = answer[0] if answer else []
    times = [job.created_us for job in jobs]
    if times != sorted(times, reverse=True):
        raise Violation(f"the list of {tenant} is out of order: {times}")
    for read in jobs:
        job = world.ledger.jobs.get(read.id)
        is_own = job is not None and job.sub.tenant == tenant and read.created_us < before_us
        if not is_own:
            raise Violation(f"{read} is in the list of {tenant}")
        assert job is not None
        if read.state != job.state:
            raise Violation(f"the list says {read}, and it is {job}")
        if read.output is not None:
            raise Violation(f"the list has the output of {job}")
