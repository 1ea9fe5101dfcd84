"""Steps that claim: the jobs must be the promised ones, from the right queues, in the right order."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from jobs.contract.job import ClaimResult
from jobs.contract.lifecycle import State
from tests.long.store_stress.model.ledger import SLACK_MS, Job, Moment, Violation
from tests.long.store_stress.model.world import STATIONS, TENANTS, WORKERS, World

MOST: Final = 8
MOST_ROWS: Final = 7  # of one job
ModelVersion = tuple[str, str]


class ClaimRequest(NamedTuple):
    """A claim: up to `want` rows, `max_bulk` of them of bulk jobs (None: any), or suspects for isolation."""

    station: ModelVersion
    worker: str
    want: int
    trial: bool = False
    max_bulk: int | None = None


def waiting(world: World, station: ModelVersion) -> list[Job]:
    """List the queued jobs of a model version, in the order of their acceptance."""
    jobs = [job for job in world.ledger.open.values() if job.state == State.QUEUED and job.station == station]
    return sorted(jobs, key=lambda job: job.created_us)


async def claim(world: World) -> None:
    """Claim for a worker: any number, with or without room for bulk, or suspects for isolation."""
    rng = world.rng
    trial = world.chance(0.15)
    max_bulk = None if trial else rng.choice([None, None, None, 0, 2])
    await claim_and_check(
        world, ClaimRequest(rng.choice(STATIONS), rng.choice(WORKERS), rng.randint(1, MOST), trial, max_bulk)
    )


async def claim_and_check(world: World, wish: ClaimRequest) -> None:
    """Claim, and compare the jobs with the queues."""
    before, marks = waiting(world, wish.station), _running_marks(world)
    store = world.workers[wish.worker]
    answer, moment, _ = await world.call(
        lambda: store.claim(*wish.station, wish.worker, wish.want, isolated=wish.trial, max_bulk=wish.max_bulk)
    )
    # Where the answer is lost, any of those that waited may run now.
    allowed = {job.id: [State.RUNNING] if answer is None else [] for job in before}
    for job in before:
        allowed[job.id] += [State.EXPIRED] if job.may_be_overdue(moment) else []
    taken = [] if answer is None else _take(world, wish, answer, moment)
    allowed |= {job.id: [State.RUNNING] for job in taken}
    if answer is not None:
        _check_counts(wish, answer, taken)
        left = [job for job in before if job not in taken and _is_ready(job, moment)]
        if not wish.trial:
            parked = await world.parked_before_change()
            left = [job for job in left if (job.shard, job.sub.tenant) not in parked]
            _check_order(taken, left)
            _check_left(world, wish, answer, taken, left)
            _check_turns(world, wish, taken, left)
    await world.observe({job_id: states for job_id, states in allowed.items() if states}, moment)
    for one in answer.jobs if answer is not None else ():
        if not world.ledger.jobs[one.id].is_held(wish.worker, one.attempt):
            raise Violation(f"{wish} gave {one}, and it is {world.ledger.jobs[one.id]}")
    _check_running(world, marks)


def _take(world: World, wish: ClaimRequest, answer: ClaimResult, moment: Moment) -> list[Job]:
    """Compare each job with the accepted one; return them."""
    taken = []
    for one in answer.jobs:
        job = world.ledger.jobs.get(one.id)
        if job is None or job.station != wish.station:
            raise Violation(f"{wish} gave {one}, which nobody submitted there: {job}")
        world.check_claimed(job, one)
        if job.state != State.QUEUED or one.attempt <= job.attempt or job.is_overdue(moment):
            raise Violation(f"{wish} gave {one}, and it is {job}")
        if job.is_suspect != wish.trial:
            raise Violation(f"{wish} gave {job}: only suspects run in isolation")
        if moment.end_ms + SLACK_MS < job.due_from_ms:
            raise Violation(f"{wish} gave {job} before its retry is due, at {moment}")
        job.due_from_ms = job.due_until_ms = 0
        world.ledger.claims.append((wish.worker, one))
        taken.append(job)
    return taken


def _check_counts(wish: ClaimRequest, answer: ClaimResult, taken: Sequence[Job]) -> None:
    of_bulk = [job.rows for job in taken if job.sub.lane == "bulk"]
    rows, bulk, last = answer.rows, sum(of_bulk), taken[-1].rows if taken else 0
    if rows != sum(job.rows for job in taken):
        raise Violation(f"{wish} gave {rows} rows, and not those of {taken}")
    # The job that reaches a limit may have more rows than were left of it; in a claim of two shards, one of each.
    if rows - last >= wish.want or (of_bulk and wish.max_bulk is not None and bulk - max(of_bulk) >= wish.max_bulk):
        raise Violation(f"{wish} gave {rows} rows, {bulk} of bulk")
    if answer.bulk != bulk and not wish.trial:
        raise Violation(f"{wish} counted {answer.bulk} rows of bulk jobs, of {bulk}")


def _is_ready(job: Job, moment: Moment) -> bool:
    """Whether a queued job surely waited in its queue."""
    return not (job.is_suspect or job.due_until_ms or job.may_be_overdue(moment))


def _check_left(
    world: World, wish: ClaimRequest, answer: ClaimResult, taken: Sequence[Job], left: Sequence[Job]
) -> None:
    """No row stays empty while a job that may run waits."""
    if answer.rows < wish.want and not answer.more and wish.max_bulk is None:
        ready = [job for job in left if _has_running_mark(world, job, taken)]
        if ready:
            raise Violation(f"{wish} gave {len(taken)} jobs, and {ready[0]} was ready")


def _has_running_mark(world: World, job: Job, taken: Iterable[Job]) -> bool:
    """Whether its tenant may have one more running job."""
    limit = world.tenants.limits(job.sub.tenant).running
    more = sum(one.rows for one in taken if one.sub.tenant == job.sub.tenant and one.shard == job.shard)
    return world.running(job.sub.tenant, job.shard) + more < world.quota_of_shard(limit)


def _check_order(taken: Sequence[Job], left: Sequence[Job]) -> None:
    """Jobs of one tenant are claimed in the order of acceptance."""
    lines: dict[tuple[int, str, str], list[int]] = defaultdict(list)
    for job in taken:
        lines[job.shard, job.sub.lane, job.sub.tenant].append(job.created_us)
    for line, times in lines.items():
        if times != sorted(times):
            raise Violation(f"the line {line} was claimed out of order: {times}")
    for job in left:
        times = lines.get((job.shard, job.sub.lane, job.sub.tenant), [])
        if times and times[-1] > job.created_us:
            raise Violation(f"{job} was passed in its line by a later job")


def _check_turns(world: World, wish: ClaimRequest, taken: Sequence[Job], left: Sequence[Job]) -> None:
    """No tenant with a runnable job is skipped for longer than two whole rounds of the others."""
    passed = world.ledger.passed
    served = {(job.shard, job.sub.lane, job.sub.tenant) for job in taken}
    could = {(job.shard, job.sub.lane, job.sub.tenant) for job in left if _has_running_mark(world, job, taken)}
    weights = sum(world.tenants.limits(tenant).weight for tenant in {job.sub.tenant for job in [*taken, *left]})
    for shard, lane, tenant in could - served:
        others = sum((job.shard, job.sub.lane) == (shard, lane) for job in taken)
        where = (*wish.station, shard, lane, tenant)
        passed[where] += others
        if passed[where] > 2 * weights + 2 * MOST + MOST_ROWS * (2 + weights):  # with turns missed for a debt
            raise Violation(f"{passed[where]} jobs of others were claimed while one of {where} waited")
    for known in [one for one in passed if one[:2] == wish.station]:
        if known[2:] in served or known[2:] not in could:
            del passed[known]


def _running_marks(world: World) -> Counter[tuple[str, int]]:
    """Count the running marks that tenants hold, by tenant and shard."""
    shards = range(world.settings.shards)
    return Counter({(tenant, shard): world.running(tenant, shard) for tenant in TENANTS for shard in shards})


def _check_running(world: World, before: Counter[tuple[str, int]]) -> None:
    """No tenant starts a job at its limit of rows; jobs that ran before the limit was set continue."""
    for (tenant, shard), count in _running_marks(world).items():
        limit = world.tenants.limits(tenant).running
        if limit and count >= max(before[tenant, shard] + 1, world.quota_of_shard(limit) + MOST_ROWS):
            raise Violation(f"{count} rows of {tenant} run on shard {shard}, and {limit} may over all shards")
