"""Steps of processes that advance bulk jobs, one script a step; each may die anywhere and others continue."""

from typing import Any, Final

from jobs.bulk import checkpoints, files, records
from jobs.bulk.checkpoints import BulkCompletion, LeaseLost, LineFailure, ResultPart
from jobs.bulk.records import Bulk
from jobs.contract.errors import JitneyError, Refused, StoreUnavailable
from jobs.contract.job import Submission
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.redis_client.pipelined_connection import Arg
from jobs.store import codec
from tests.long.store_stress.model.ledger import Delivery, Moment, Violation, read_webhook
from tests.long.store_stress.model.world import STATIONS, World, now_ms
from tests.long.store_stress.steps.bulk_turns import FLIGHT_MS, note_lease
from tests.long.store_stress.steps.bulks import FAR_MS, Bulks, BulkStepper, KnownBulk
from tests.long.store_stress.steps.submitting import submit_jobs

BROKEN: Final = Refused("malformed_request", "the line is broken")
WALKS: Final = {
    "cancelled": ("canceled", JitneyError("batch_cancelled", "cancelled")),
    "expired": ("expired", JitneyError("batch_expired", "expired")),
}
CHUNK: Final = 5


async def advance(world: World, bulks: Bulks) -> None:
    """Advance one process by one script, or kill it."""
    if not bulks.courses:
        return
    course = world.rng.choice(bulks.courses)
    if world.is_flaky and world.chance(0.02):
        bulks.courses.remove(course)
        return
    await advance_one(world, bulks, course)


async def advance_one(world: World, bulks: Bulks, course: BulkStepper) -> None:
    if course not in bulks.courses:
        return
    is_last = course.lease.number == course.known.lease and not course.known.is_closed
    fate = world.fate()
    try:
        await _advance(world, bulks, course)
    except LeaseLost:
        late = now_ms() > course.known.flight_until_ms
        others = sum(one.known is course.known for one in bulks.courses) > 1
        if is_last and not (late or others or course.known.is_closed):
            raise Violation(f"{course} was overtaken by nobody") from None
        bulks.courses.remove(course)
    except StoreUnavailable as error:
        world.expect_outage(fate, error)
        course.next = "begin"
        course.known.faults = 0  # it may have come to its checkpoint
    if is_last:  # it may have said that it goes on, or the step has ended, and the next is due before that
        note_lease(course.known)
    world.connection.fate = "once"


async def _advance(world: World, bulks: Bulks, course: BulkStepper) -> None:
    if course.next == "begin":
        begin_ms = now_ms()
        course.stand = await checkpoints.begin_step(world.store, course.lease, FLIGHT_MS)
        course.known.flight_until_ms = begin_ms + FLIGHT_MS - 3
        if course.lease.number != course.known.lease:
            raise Violation(f"{course} may go on, and is not the last")
        if not course.known.faults <= course.stand.bulk.faults <= course.known.most_faults:
            raise Violation(f"{course} has had other faults in a row than {course.stand.bulk}")
        if course.stand.bulk.losses > course.known.most_losses:
            raise Violation(f"{course} was not lost as often in a row as {course.stand.bulk} says")
        course.next = _plan(world, course)
        return
    step, course.next = course.next, "begin"
    assert course.stand is not None
    await STEPS[step](world, bulks, course, course.stand.bulk)


def _plan(world: World, course: BulkStepper) -> str:
    """Return the next step of a stepper."""
    assert course.stand is not None
    bulk, now = course.stand.bulk, course.stand.now_ms
    if not bulk.is_validated:
        return "validate"
    if not bulk.abort_reason and (bulk.status == "cancelling" or now >= bulk.expires_ms):
        return "walk_out"
    if bulk.collected == bulk.total == bulk.expanded:
        return "close"
    can = ["land"]
    can += ["read_outcomes"] * 3 if course.stand.waiting else []
    can += ["read_marks"] * 3 if bulk.expanded < bulk.total else []
    return world.rng.choice(can)


async def _validate(world: World, bulks: Bulks, course: BulkStepper, bulk: Bulk) -> None:
    del bulks
    fields: dict[str, Arg] = {"total": len(course.known.lines)}
    if bulk.status == "validating":
        fields |= {"status": "in_progress", "in_progress_ms": int(now_ms())}
    await checkpoints.update_bulk(world.store, course.lease, FLIGHT_MS, bulk.status, fields)


async def _abort_remaining(world: World, bulks: Bulks, course: BulkStepper, bulk: Bulk) -> None:
    del bulks
    why = "cancelled" if bulk.status == "cancelling" else "expired"
    fields: dict[str, Arg] = {"abort_reason": why, "expanded": 0, "line": 0, "offset": 0}
    await checkpoints.update_bulk(world.store, course.lease, FLIGHT_MS, bulk.status, fields)


async def _read_marks(world: World, bulks: Bulks, course: BulkStepper, bulk: Bulk) -> None:
    """Choose the next lines, and create jobs for the valid ones without an outcome."""
    del bulks
    course.lines = [number for number in course.known.lines if bulk.line < number <= bulk.line + CHUNK]
    marks = await checkpoints.read_done_lines(world.store, bulk, course.lines[0], course.lines[-1])
    is_open = {number: course.known.lines[number] and number not in marks for number in course.lines}
    course.jobs = [_job(bulk, number) for number, is_it in is_open.items() if is_it and not bulk.abort_reason]
    course.next = "submit_lines"


async def _submit_lines(world: World, bulks: Bulks, course: BulkStepper, bulk: Bulk) -> None:
    """Submit them; another process may have done so already, and the lines may have ended."""
    del bulks
    known = {one.id: world.ledger.jobs.get(one.id) for one in course.jobs}
    marks = await checkpoints.read_done_lines(world.store, bulk, course.lines[0], course.lines[-1])
    is_taken = all(await submit_jobs(world, course.jobs)) if course.jobs else True
    for job_id, before in known.items():
        job = world.ledger.jobs.get(job_id)
        if job is not None and job is not before:  # the line may have ended without a run meanwhile
            job.is_rerun |= course.known.is_closed or checkpoints.line_number(job_id) in marks
    course.next = "expand" if is_taken else "land"


def _job(bulk: Bulk, number: int) -> Submission:
    model, version = STATIONS[number % len(STATIONS)]
    return Submission(
        id=checkpoints.job_id(bulk.id, number),
        model=model,
        version=version,
        kind="raw",
        input=b"line %d" % number,
        tenant=bulk.tenant,
        lane="bulk",
        deadline_ms=max(1, bulk.expires_ms - int(now_ms())),
        bulk=f"line-{number}",
    )


async def _expand(world: World, bulks: Bulks, course: BulkStepper, bulk: Bulk) -> None:
    """Write the checkpoint of the submitted lines; others end here."""
    del bulks
    marks = await checkpoints.read_done_lines(world.store, bulk, course.lines[0], course.lines[-1])
    ends, states = [], {}
    for number in course.lines:
        is_good, line_id = course.known.lines[number], checkpoints.job_id(bulk.id, number)
        if number in marks or (is_good and not bulk.abort_reason):
            continue
        state, error = ("failed", BROKEN) if not is_good else WALKS[bulk.abort_reason]
        ends.append(LineFailure(line_id, f"line-{number}", state, error))
        states[line_id] = [State(state)]
    last, begin_ms = course.lines[-1], now_ms()
    try:
        await checkpoints.record_expansion(
            world.store,
            course.lease,
            FLIGHT_MS,
            bulk,
            taken=len(course.lines),
            place=(last, last * 10),
            size=0,
            ends=ends,
        )
        if course.lease.number != course.known.lease:
            raise Violation(f"{course} expanded, and is not the last")
        course.known.faults = course.known.most_faults = course.known.most_losses = 0
    finally:
        world.connection.fate = "once"
        await world.observe(states, Moment(begin_ms, now_ms()))


async def _read_outcomes(world: World, bulks: Bulks, course: BulkStepper, bulk: Bulk) -> None:
    """Store the oldest outcomes as a part."""
    course.found = await checkpoints.read_outcomes(world.store, bulk, world.rng.randint(1, 8), 1 << 20)
    shown: dict[str, list[tuple[int, str]]] = {"out": [], "err": []}
    for outcome in course.found:
        line_id, _, values = codec.read_outcome(outcome)
        state = values[0].decode().split(" ")[0]
        shown["out" if state == "succeeded" else "err"].append((checkpoints.line_number(line_id), state))
        job = world.ledger.jobs.get(line_id)
        if job is not None and not job.is_rerun:
            is_right = job.state.value == state
            if not is_right:
                raise Violation(f"the outcome {outcome!r} is logged of {job}")
    name = f"{bulk.collected:010d}-{world.rng.getrandbits(32):08x}"
    for kind, lines in shown.items():
        if lines:
            bulks.storage.parts[files.part_key(bulk.id, kind, name)] = lines
    sizes = [10 * len(shown["out"]), 10 * len(shown["err"]), len(shown["out"]), len(shown["err"])]
    course.part = ResultPart(name, len(course.found), 10, *sizes)
    course.next = "collect"


async def _collect(world: World, bulks: Bulks, course: BulkStepper, bulk: Bulk) -> None:
    del bulks
    assert course.part is not None
    await checkpoints.record_collection(
        world.store, course.lease, FLIGHT_MS, bulk, course.part, expires_ms=FAR_MS, kept_s=world.bulk.kept_s
    )
    if course.lease.number != course.known.lease:
        raise Violation(f"{course} collected, and is not the last")
    course.known.faults = course.known.most_faults = course.known.most_losses = 0


async def _land(world: World, bulks: Bulks, course: BulkStepper, bulk: Bulk) -> None:
    """End the step; the next is due at once or soon. Some steps fail unexpectedly: the bulk job backs off."""
    del bulk
    known, begin_ms = course.known, now_ms()
    bulks.courses.remove(course)
    is_last = course.lease.number == known.lease
    is_heard = is_last and world.connection.fate in ("once", "twice") and begin_ms < known.flight_until_ms
    if is_last:
        known.flight_until_ms = 0
    known.landed = known.lease if is_heard else known.landed
    after_s = world.rng.choice([0, 0.02])
    if not (world.is_flaky and world.chance(0.2)):
        known.faults, known.most_faults = 0, 0 if is_heard else known.most_faults
        known.most_losses = 0 if is_heard else known.most_losses
        await checkpoints.finish_step(world.store, course.lease, after_s)
        return
    after_s = world.rng.choice([0.02, 0.3])
    known.due_by_ms = max(known.due_by_ms, now_ms() + after_s * 1000 + FLIGHT_MS)
    known.most_faults += 1
    known.faults += is_heard
    known.rests_until_ms = begin_ms + after_s * 1000 if is_heard else 0
    await checkpoints.finish_step(world.store, course.lease, after_s, "it rests", is_fault=True)
    world.ledger.steps["bulk step failed"] += is_heard


async def _close(world: World, bulks: Bulks, course: BulkStepper, bulk: Bulk) -> None:
    """End a bulk job: each of its lines is once in one of the two files."""
    status = bulk.abort_reason or "completed"
    end = BulkCompletion(
        status, bulk.webhook, b'{"type":"batch.%b"}' % status.encode(), {f"{status}_ms": int(now_ms())}
    )
    try:
        await checkpoints.close_bulk(world.store, course.lease, end, world.bulk.kept_s)
    finally:
        world.connection.fate = "once"
        found = records.parse_bulk(bulk.id, await world.connection.command("HGETALL", keys.bulk(bulk.id)))
        if found is not None and found.is_final and not course.known.is_closed:
            course.known.is_closed = True
            await check_results(world, bulks, course.known, found)
            if bulk.webhook:
                await _expect_told(world, bulk)
    if course in bulks.courses:
        bulks.courses.remove(course)


async def _expect_told(world: World, bulk: Bulk) -> None:
    """The end of a bulk with a webhook makes one delivery."""
    root = keys.root(int(bulk.id[:2]))
    found = [name.decode() for name in await world.connection.command("KEYS", f"{root}:delivery:{bulk.id}*")]
    if len(found) != 1:
        raise Violation(f"the end of bulk {bulk.id} is told by {found}")
    name = found[0].rpartition(":")[2]
    url, _, headers = read_webhook(bulk.webhook)
    world.ledger.deliveries[name] = Delivery(name, bulk.tenant, url, job=f"batch_{bulk.id}", headers=headers)


async def check_results(world: World, bulks: Bulks, known: KnownBulk, bulk: Bulk) -> None:
    """Output lines and error lines are the input lines, each once."""
    lines: list[tuple[int, str]] = []
    for kind in ("out", "err"):
        for part in await world.connection.command("LRANGE", keys.bulk_parts(bulk.id, kind), 0, -1):
            lines += bulks.storage.parts[files.part_key(bulk.id, kind, part.decode().split(" ")[1])]
    numbers = sorted(number for number, _ in lines)
    if numbers != sorted(known.lines):
        raise Violation(f"the lines {numbers} were stored of {known}")
    succeeded = sum(state == "succeeded" for _, state in lines)
    counts = (succeeded, len(lines) - succeeded)
    if (bulk.completed, bulk.failed) != counts:
        raise Violation(f"{bulk} says other numbers than {counts}")
    is_right = all(known.lines[number] or state != "succeeded" for number, state in lines)
    if not is_right:
        raise Violation(f"a broken line succeeded: {lines} of {known}")
    left = [job.id for job in world.ledger.open.values() if job.id.startswith(bulk.id) and not job.is_rerun]
    if left:
        raise Violation(f"bulk {bulk.id} is over, and {left} are open")
    world.ledger.steps[f"bulk {bulk.status}"] += 1
    world.ledger.counts[f"bulks:ended:{bulk.status}"] += 1
    world.ledger.lines_stored += len(lines)


STEPS: Final[dict[str, Any]] = {
    "validate": _validate,
    "walk_out": _abort_remaining,
    "read_marks": _read_marks,
    "submit_lines": _submit_lines,
    "expand": _expand,
    "read_outcomes": _read_outcomes,
    "collect": _collect,
    "land": _land,
    "close": _close,
}
