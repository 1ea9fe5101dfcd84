"""Steps of workers and sweepers: extend, finish, release, sweep, recover; also with stale or foreign claims."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from jobs.contract.job import ClaimedJob, Outcome
from jobs.contract.lifecycle import FINAL, State
from jobs.store import dead_letters, maintenance
from tests.long.store_stress.model.ledger import SLACK_MS, Job, Moment, Violation
from tests.long.store_stress.model.world import WORKERS, World

PARKED_MS: Final = 5000  # a tenant is looked at again after so long: by then it may be allowed to run more
LARGE: Final = 17 << 10  # an output that is kept and read by itself
FAR_FUTURE_MS: Final = 1 << 52
REFUSED: Final = b'{"code":"invalid_input","message":"m","status":422}'
FAULT: Final = b'{"code":"inference_failed","message":"m","status":422}'


def draw_claims(world: World, most: int) -> tuple[str, list[ClaimedJob]]:
    """Draw a worker and some claims that it has, or had."""
    claims, worker = world.ledger.claims, world.rng.choice(WORKERS)
    of_worker = [one for whose, one in claims if whose == worker or world.chance(0.01)]
    current = [one for one in of_worker if is_mine(world, worker, one)]
    picked = world.rng.sample(current, min(len(current), world.rng.randint(1, most)))
    if of_worker and (not picked or world.chance(0.2)):
        picked.append(world.rng.choice(of_worker))
    return worker, list({one.id: one for one in picked}.values())


def is_mine(world: World, worker: str, one: ClaimedJob) -> bool:
    job = world.ledger.jobs[one.id]
    return job.is_held(worker, one.attempt)


async def extend(world: World) -> None:
    """Renew leases; those that the worker has lost are reported."""
    worker, held = draw_claims(world, 6)
    if not held:
        return
    mine = {one.claim: is_mine(world, worker, one) for one in held}
    lost, moment, fate = await world.call(lambda: world.workers[worker].extend(worker, held))
    for one in held:
        job = world.ledger.jobs[one.id]
        if mine[one.claim] and fate != "unsent":
            lease_ms = world.leases_s[worker] * 1000
            job.lease_from_ms = min(job.lease_from_ms, moment.begin_ms + lease_ms) if lost is None else moment.begin_ms
            job.lease_from_ms += lease_ms if lost is not None else 0
            job.lease_until_ms = moment.end_ms + lease_ms
        if lost is not None and not job.may_be_overdue(moment):
            is_lost = one.claim in {other.claim for other in lost}
            if is_lost == mine[one.claim]:
                raise Violation(f"extend said lost: {is_lost} of {one}, and it is {job}")
    await world.observe({one.id: _expired(world, one.id, moment) for one in held}, moment)


def _expired(world: World, job_id: str, moment: Moment) -> list[State]:
    return [State.EXPIRED] if world.ledger.jobs[job_id].may_be_overdue(moment) else []


def draw_outcome(world: World, one: ClaimedJob) -> Outcome:
    rng = world.rng
    state = rng.choice([State.SUCCEEDED] * 6 + [State.FAILED] * 2 + [State.QUEUED] * 2)
    dead = state == State.FAILED and world.chance(0.5)
    output = b'{"y":%d,"x":"%b"}' % (rng.getrandbits(30), b"x" * (LARGE if world.chance(0.05) else 0))
    body = output if state == State.SUCCEEDED else FAULT if dead else REFUSED
    after_ms = rng.choice([0, 5, 40]) if state == State.QUEUED else 0
    return Outcome(one.id, one.attempt, state, body, 1.0, 2.0, 3.0, 1, dead, after_ms)


async def finish(world: World) -> None:
    worker, held = draw_claims(world, 8)
    if not held:
        return
    await finish_all(world, worker, [draw_outcome(world, one) for one in held])


async def finish_all(world: World, worker: str, outcomes: Sequence[Outcome]) -> None:
    """Finish; a claim that is no longer the current one must be refused, and change nothing."""
    ledger = world.ledger
    mine = {one.id: ledger.jobs[one.id].is_held(worker, one.attempt) for one in outcomes}
    # An answer to a finish that comes a second time must be the answer to the first: the same end is no refusal.
    own = {one.id: mine[one.id] or _is_repeat(ledger.jobs[one.id], one) for one in outcomes}
    refused, moment, fate = await world.call(lambda: world.workers[worker].finish(worker, outcomes))
    overdue = {one.id for one in outcomes if ledger.jobs[one.id].may_be_overdue(moment)}
    if refused is not None:
        were = [ledger.jobs[one.id] for one in outcomes]
        least = sum(not own[one.id] and one.id not in overdue for one in outcomes)
        most = least + sum(one.id in overdue or not mine[one.id] for one in outcomes)
        if fate == "twice":
            most += sum(one.state == State.QUEUED for one in outcomes)
        if not least <= refused <= most:
            what = f"{refused}, not {least} to {most}"
            raise Violation(f"finish by {worker} refused {what} of {outcomes}; {were}")
    allowed = {}
    for one in outcomes:
        job = ledger.jobs[one.id]
        ends = [one.state] if mine[one.id] and fate != "unsent" else []
        allowed[one.id] = ends + ([State.EXPIRED] if one.id in overdue and not job.is_final else [])
    await world.observe(allowed, moment)
    for one in outcomes:
        if mine[one.id] and ledger.jobs[one.id].state == one.state == State.QUEUED:
            job = ledger.jobs[one.id]
            ledger.counts[f"retried:{job.sub.model}"] += 1
            job.due_from_ms, job.due_until_ms = moment.begin_ms + one.after_ms, moment.end_ms + one.after_ms
        was_mine = mine[one.id] and fate in ("once", "twice") and one.id not in overdue
        if was_mine:
            _check_outcome(world, one)


def _is_repeat(job: Job, one: Outcome) -> bool:
    """Whether this may be a finish that was carried out before, whose answer was lost."""
    return (job.state, job.attempt) == (one.state, one.attempt)


def _check_outcome(world: World, one: Outcome) -> None:
    """Check that the job has the result of the current claim."""
    job = world.ledger.jobs[one.id]
    if job.state != one.state:
        raise Violation(f"{one} was written, and the job is {job}")
    if job.is_final and job.finished_us:
        if job.body != one.body:
            raise Violation(f"{one} was written, and the job says {job.body!r}")
        if job.is_dead != one.dead:
            raise Violation(f"{one} was written, and is kept as a dead letter: {job.is_dead}")


async def release(world: World) -> None:
    """Give jobs back unrun."""
    worker, held = draw_claims(world, 4)
    if not held:
        return
    mine = {one.id: is_mine(world, worker, one) for one in held}
    back, moment, fate = await world.call(lambda: world.workers[worker].release(worker, held))
    overdue = sum(world.ledger.jobs[one.id].may_be_overdue(moment) for one in held)
    if back is not None and fate != "twice":
        wanted = sum(mine.values())
        right = wanted - overdue <= back <= wanted
        if not right:
            raise Violation(f"release gave back {back} of {wanted}")
    allowed = {one.id: ([State.QUEUED] if mine[one.id] else []) + _expired(world, one.id, moment) for one in held}
    await world.observe(allowed, moment)


async def sweep(world: World) -> None:
    """Sweep like a gateway; it may die between two scripts, and at times may not reclaim leases."""
    store, latest_ms = world.store, FAR_FUTURE_MS if world.chance(0.8) else 0
    if world.chance(0.5):
        await _sweep_to_end(world, latest_ms)
        return
    root = world.rng.choice(store.roots)
    scripts: Sequence[Callable[[], Awaitable[object]]] = (
        lambda: maintenance.expire_and_reclaim(store, root, 10, latest_ms),
        lambda: maintenance.enqueue_due_retries(store, root, 10),
        lambda: dead_letters.purge_shard(store, root, 10),
    )
    for script in world.rng.sample(scripts, world.rng.randint(1, len(scripts))):
        _, moment, _ = await world.call(script)
        await _observe_swept(world, moment, latest_ms)


async def _sweep_to_end(world: World, latest_ms: int) -> None:
    before = {job_id: (job.state, job.attempt) for job_id, job in world.ledger.open.items()}
    swept, moment, _ = await world.call(lambda: maintenance.sweep(world.store, latest_ms))
    await _observe_swept(world, moment, latest_ms)
    if swept is None:
        return
    for root in world.store.roots:
        parked = await world.connection.command(
            "ZRANGEBYSCORE", f"{root}:parked", "-inf", int(moment.begin_ms) - PARKED_MS
        )
        if parked:
            raise Violation(f"{parked} are parked on {root} for longer than {PARKED_MS} ms, and a sweep left them")
    for job_id in before:
        job = world.ledger.jobs[job_id]
        if job.due_until_ms and job.due_until_ms + SLACK_MS < moment.begin_ms:
            job.due_from_ms = job.due_until_ms = 0  # it is back in its line
        if not job.is_final and job.is_overdue(moment):
            raise Violation(f"{job} is overdue, and a sweep left it")
        has_lease = job.lease_until_ms + SLACK_MS >= moment.begin_ms or not latest_ms
        is_kept = job.state != State.RUNNING or has_lease
        if not is_kept:
            raise Violation(f"the lease of {job} is over, and a sweep left it; {moment}")


async def _observe_swept(world: World, moment: Moment, latest_ms: int) -> None:
    """Compare with the possible effects of a sweep on each job."""
    allowed: dict[str, list[State]] = {}
    running: list[Job] = []
    for job in world.ledger.open.values():
        may = [State.EXPIRED] if job.may_be_overdue(moment) else []
        if job.state == State.RUNNING and latest_ms and job.lease_from_ms - SLACK_MS <= moment.end_ms:
            running.append(job)
            may += [State.QUEUED]
            may += [State.FAILED] if job.losses + 1 >= world.settings.max_lost_leases else []
        if may:
            allowed[job.id] = may
    await world.observe(allowed, moment)
    for job in running:
        job.losses += job.state == State.QUEUED
        job.reclaims += job.state == State.QUEUED
        is_open = job.reclaims < world.settings.max_lost_leases
        if not is_open:
            raise Violation(f"{job} was lost {job.reclaims} times, and has not failed")


async def recover_worker(world: World) -> None:
    """Recover a dead worker: all jobs that it held go back, and those it was executing are suspects."""
    worker = world.rng.choice(WORKERS)
    held = [job for job in world.ledger.open.values() if (job.state, job.owner) == (State.RUNNING, worker)]
    in_hands = world.rng.sample(held, world.rng.randint(0, min(3, len(held))))
    if world.chance(0.5):
        in_hands = in_hands[:1]
    claims = [(job.id, job.attempt) for job in in_hands]
    if world.ledger.claims and world.chance(0.2):
        claims.append(world.rng.choice(world.ledger.claims)[1].claim)  # a stale one
    _, moment, fate = await world.call(lambda: maintenance.recover_dead_worker(world.workers[worker], worker, claims))
    allowed: dict[str, list[State]] = {}
    for job in held:
        job.losses += 1
        job.kills += (job.id, job.attempt) in claims
        is_last = job.kills >= world.settings.max_kills or job.losses >= world.settings.max_lost_leases
        fails = [State.FAILED] if is_last else []
        allowed[job.id] = [State.QUEUED, *fails, *_expired(world, job.id, moment)]
    await world.observe(allowed, moment)
    if fate in ("once", "twice"):
        left = [job for job in held if job.state == State.RUNNING]
        if left:
            raise Violation(f"{worker} was recovered, and holds {left[:1]}")


def count_states(world: World) -> Counter[str]:
    return Counter(job.state.value for job in world.ledger.open.values() if job.state not in FINAL)
