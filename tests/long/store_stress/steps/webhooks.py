"""Steps of processes that deliver webhooks, and of callers that manage theirs."""

from collections import Counter
from typing import Final

from jobs.contract.errors import Refused
from jobs.redis_client import keys
from jobs.store.background_lease import BackgroundLease
from jobs.webhooks import delivery_log, outbox, signing_secrets
from jobs.webhooks.outbox import DeliveryLimits, Settlement, Verdict
from tests.long.store_stress.model.ledger import Delivery, Job, Violation, read_webhook
from tests.long.store_stress.model.world import TENANTS, World
from tests.long.store_stress.steps.submitting import HOOKS, any_id

FLIGHT_MS: Final = 40
LIMITS: Final = DeliveryLimits(
    lease_ms=FLIGHT_MS,
    stall_ms=30,
    max_waiting=500,
    max_waiting_of_tenant=1000,
    room=3,
    pause_after_ms=3_600_000,
    pause_ms=50,
    log=100_000,
    ttl_ms=3_600_000,
)
SLOTS: Final = 8
VERDICTS: Final[tuple[Verdict, ...]] = (
    *("delivered", "delivered", "delivered", "delivered", "retry", "retry", "retry", "failed", "stopped"),
)


class LeasedDeliveries:
    """Leases that some background process holds, or has lost."""

    def __init__(self) -> None:
        self.leases: list[BackgroundLease] = []
        self.begun: set[BackgroundLease] = set()


async def dispatch(world: World, mail: LeasedDeliveries) -> None:
    """Take deliveries that are due; the process may die with them."""
    await dispatch_of(world, mail, world.rng.choice(world.store.roots), world.rng.choice(outbox.LANES))


async def dispatch_of(world: World, mail: LeasedDeliveries, root: str, lane: outbox.Lane) -> None:
    answer, moment, _ = await world.call(
        lambda: outbox.dispatch_due(world.store, root, world.rng.randint(1, 8), lane=lane, slots=SLOTS, limits=LIMITS)
    )
    for lease in answer[0] if answer else []:
        one = world.ledger.deliveries.get(lease.delivery)
        if one is None:
            raise Violation(f"{lease} is handed out, and nothing of this id is to be told")
        assert one is not None
        if one.state != "waiting":
            raise Violation(f"{lease} is handed out, and it is {one}")
        is_lost = one.flight_until_ms <= moment.end_ms or one.settled_flight == one.lease
        if not is_lost:
            raise Violation(f"{lease} is handed out, and an earlier one is under way: {one}")
        if lease.number <= one.lease:
            raise Violation(f"{lease} has no new number: {one}")
        one.lease, one.flight_until_ms = lease.number, moment.begin_ms + FLIGHT_MS - 3
        if world.chance(0.93):
            mail.leases.append(lease)


async def begin(world: World, mail: LeasedDeliveries) -> None:
    """Read the message to send."""
    if mail.leases:
        await begin_one(world, mail, world.rng.choice(mail.leases))


async def begin_one(world: World, mail: LeasedDeliveries, lease: BackgroundLease) -> None:
    one = world.ledger.deliveries[lease.delivery]
    answer, moment, fate = await world.call(lambda: outbox.begin_attempt(world.store, lease, LIMITS))
    is_last = one.state == "waiting" and (one.lease, one.settled_flight) == (lease.number, one.settled_flight)
    is_last = is_last and one.settled_flight != lease.number
    if answer is not None:
        if not is_last:
            raise Violation(f"{lease} may send, and it is {one}")
        is_right = (answer.url, answer.tenant, answer.tries) == (one.url, one.tenant, one.tries)
        is_right = is_right and answer.headers == one.headers
        if not is_right:
            raise Violation(f"{answer} is to be sent for {one}")
        job = world.ledger.jobs.get(one.job)
        if job is not None:
            told = answer.job
            same = told is not None and (told.id, told.state) == (job.id, job.state)
            same = same and job.finished_us in (0, told and told.finished_us)
            if not same:
                raise Violation(f"{answer} tells of {job}")
        one.sent += 1
        mail.begun.add(lease)
        one.flight_until_ms = max(one.flight_until_ms, moment.begin_ms + FLIGHT_MS - 3)
    elif fate in ("once", "twice") and is_last and moment.end_ms < one.flight_until_ms:
        raise Violation(f"{lease} may not send, and it is {one}")


async def settle(world: World, mail: LeasedDeliveries) -> None:
    """Record the result of an attempt; a lease that is not the latest is refused."""
    if not mail.leases:
        return
    lease = mail.leases.pop(world.rng.randrange(len(mail.leases)))
    if lease not in mail.begun:
        return
    verdict = world.rng.choice(VERDICTS)
    slow = world.rng.choice([None, None, True, False])
    await settle_as(
        world, lease, Settlement(verdict, {"at_ms": 1, "status": 200}, after_ms=world.rng.choice([0, 30]), slow=slow)
    )
    if world.chance(0.2):  # a process that went on after it was given up
        mail.leases.append(lease)


async def settle_as(world: World, lease: BackgroundLease, how: Settlement) -> None:
    one = world.ledger.deliveries[lease.delivery]
    is_last = one.state == "waiting" and one.lease == lease.number and one.settled_flight != lease.number
    news, _, fate = await world.call(lambda: outbox.settle_attempt(world.store, lease, how, LIMITS))
    if fate == "once" and not is_last and news not in (None, "refused"):
        raise Violation(f"{lease} settled, and it is {one}")
    if not is_last or fate == "unsent" or (fate == "once" and news == "refused"):
        return
    state, tries = await world.connection.command("HMGET", keys.delivery(one.id), "state", "tries")
    if int(tries) == one.tries and fate != "once":
        return  # it was refused, and nobody heard that
    one.settled_flight, one.tries = lease.number, one.tries + 1
    one.state = {"retry": "waiting", "delivered": "delivered"}.get(how.verdict, "failed")
    if one.is_asked_again:
        one.state, one.is_asked_again = state.decode(), False
    is_right = (state.decode(), int(tries)) == (one.state, one.tries)
    if not is_right:
        raise Violation(f"{lease} settled as {how.verdict}, and the record says {state} after {tries}: {one}")


async def attach(world: World) -> None:
    """Replace the webhook of a job; the end of a finished job is delivered at once."""
    job_id, hook = any_id(world), world.rng.choice(HOOKS)
    job = world.ledger.jobs.get(job_id)
    if job is None or job.sub.bulk:
        return
    tenant, refusal = job.sub.tenant, ""

    async def made() -> tuple[str, str]:
        nonlocal refusal
        try:
            return await signing_secrets.attach_webhook(world.store, job_id, tenant, hook)
        except Refused as error:
            refusal = error.code
            return "", ""

    answer, moment, fate = await world.call(made)
    if answer is None and fate == "lost":  # it was carried out: what was made is found by asking again
        answer = await made()
    if refusal:
        is_right = job.is_final and refusal in ("job_not_found", "too_many_webhooks")
        if not is_right:
            raise Violation(f"attach gave {refusal} for {job}")
    elif answer is not None:
        _take_attached(world, job, hook, *answer)
    await world.observe({job_id: ()}, moment)


def _take_attached(world: World, job: Job, hook: str, how: str, delivery: str) -> None:
    url, events, headers = read_webhook(hook)
    if not job.is_final:
        if how != "open":
            raise Violation(f"attach gave {how} for {job}")
        job.hook = hook
        return
    is_wanted = not events or job.state.value in events
    if how != ("posted" if is_wanted else "unwanted"):
        raise Violation(f"attach gave {how} for {job}")
    if how == "posted":
        known = world.ledger.deliveries.setdefault(
            delivery, Delivery(delivery, job.sub.tenant, url, job=job.id, headers=headers)
        )
        if (known.url, known.headers) != (url, headers):
            raise Violation(f"attach of {url} gave {known}")


async def resend(world: World) -> None:
    """Resend a delivery."""
    if not world.ledger.deliveries:
        return
    one = world.ledger.deliveries[world.pick(world.ledger.deliveries)]
    tenant = one.tenant if world.chance(0.9) else world.rng.choice(TENANTS)
    refusal = ""

    async def made() -> bool:
        nonlocal refusal
        try:
            await delivery_log.resend(world.store, tenant, one.id)
        except Refused as error:
            refusal = error.code
        return True

    answer, _, fate = await world.call(made)
    if answer is not None:
        is_unknown = tenant != one.tenant
        if bool(refusal) != is_unknown:
            raise Violation(f"resend by {tenant} gave {refusal!r} for {one}")
    if tenant == one.tenant and fate != "unsent":
        one.is_asked_again = one.is_asked_again or one.lease != one.settled_flight
        one.state = "waiting"


async def list_deliveries(world: World) -> None:
    """List a tenant's deliveries: its own, each as it stands."""
    tenant = world.rng.choice(TENANTS)
    answer, _, _ = await world.call(
        lambda: delivery_log.list_deliveries(world.store, tenant, delivery_log.DeliveryFilter(), None, 50)
    )
    for one in answer.records if answer else []:
        known = world.ledger.deliveries.get(one.id)
        if known is None or known.tenant != tenant:
            raise Violation(f"{one} is in the list of {tenant}")
        assert known is not None
        same = (one.state, one.tries, one.url) == (known.state, known.tries, known.url)
        if not same:
            raise Violation(f"the list says {one}, and it is {known}")


async def rotate_secret(world: World, known: dict[str, list[str]]) -> None:
    """Read or rotate a tenant's secret: it stays until it is rotated."""
    tenant = world.rng.choice(TENANTS)
    rotates = world.chance(0.2)
    before = known.get(tenant)
    made = (
        signing_secrets.rotate_secret(world.connection, tenant, 60)
        if rotates
        else signing_secrets.read_secrets(world.connection, tenant)
    )
    held, _, fate = await world.call(lambda: made)
    if held is None:
        if fate == "lost":
            known.pop(tenant, None)
        return
    if before is not None and fate != "twice":
        right = held[1] == before[0] and held[0] != before[0] if rotates else held == before
        if not right:
            raise Violation(f"the secrets of {tenant} went from {before} to {held}")
    known[tenant] = held


def states(world: World) -> Counter[str]:
    return Counter(one.state for one in world.ledger.deliveries.values())
