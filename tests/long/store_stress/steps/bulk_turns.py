"""The order of bulk steps: fair by tenant, with backoff after faults and lost steps."""

from collections.abc import Sequence
from typing import Final

from jobs.bulk import checkpoints
from jobs.redis_client import keys
from jobs.store.background_lease import BackgroundLease
from tests.long.store_stress.model.ledger import SLACK_MS, Moment, Violation
from tests.long.store_stress.model.world import TENANTS, World, now_ms
from tests.long.store_stress.steps.bulks import Bulks, BulkStepper, KnownBulk

FLIGHT_MS: Final = 60
WANT: Final = 2  # steps of one dispatch
SLOTS: Final = 2  # steps under way of one shard


async def dispatch(world: World, bulks: Bulks) -> None:
    """Take bulk jobs with a due step; the process may die with them."""
    await dispatch_of(world, bulks, world.rng.choice(world.store.roots))


async def dispatch_of(world: World, bulks: Bulks, root: str) -> None:
    answer, moment, _ = await world.call(
        lambda: checkpoints.dispatch_due_steps(world.store, root, WANT, SLOTS, FLIGHT_MS)
    )
    leases = answer[0] if answer else []
    for lease in leases:
        known = bulks.known.get(lease.delivery)
        if known is None:  # its creator never heard of it
            known = await _adopt(world, bulks, lease.delivery)
            known.most_faults = known.most_losses = lease.number
        _check_flight(known, lease, moment)
    if answer is not None:
        _notice_lost(bulks, root, moment)
        _check_passed(bulks, root, leases, moment)
    for lease in leases:
        known = bulks.known[lease.delivery]
        known.most_losses += known.lease != known.landed  # the flight before may have been lost
        known.lease, known.flight_until_ms = lease.number, moment.begin_ms + FLIGHT_MS - 3
        bulks.passed.pop((keys.root(known.shard), known.tenant), None)
        if world.chance(0.95):
            bulks.courses.append(BulkStepper(lease, known))
    for known in bulks.known.values() if answer is None else [bulks.known[one.delivery] for one in leases]:
        known.most_losses += answer is None
        note_lease(known)


def note_lease(known: KnownBulk) -> None:
    """Note that a step may be under way from now on; it counts as lost a while later at the latest."""
    known.lost_by_ms = now_ms() + FLIGHT_MS
    known.due_by_ms = max(known.due_by_ms, known.lost_by_ms + _cooldown_ms(known))


def _notice_lost(bulks: Bulks, root: str, moment: Moment) -> None:
    """The next dispatch notices a lost step: the backoff of the bulk job begins then."""
    for known in bulks.known.values():
        if keys.root(known.shard) == root and known.lost_by_ms and known.lost_by_ms + SLACK_MS < moment.begin_ms:
            known.lost_by_ms = 0
            known.due_by_ms = max(known.due_by_ms, moment.end_ms + _cooldown_ms(known))


def _cooldown_ms(known: KnownBulk) -> float:
    """Return its backoff if the current step is lost, too: from the third loss in a row on."""
    losses = known.most_losses + 1
    return min(60_000, 1000 * 2 ** (losses - 2)) if losses > 2 else 0


async def end_cooldowns(world: World, bulks: Bulks) -> None:
    """End the backoff of bulk jobs at once: the end of an episode does not wait for it."""
    for known in bulks.known.values():
        if known.is_closed or known.most_losses < 2:
            continue
        root = keys.root(known.shard)
        await world.connection.command("HDEL", f"{root}:bulk:{known.id}", "not_before")
        if await world.connection.command("ZADD", f"{root}:bulk_due:{known.tenant}", "XX", "CH", 1, known.id):
            # Behind the tenants that wait for their turn already.
            await world.connection.command("ZADD", f"{root}:bulk_due", "XX", "LT", int(now_ms()), known.tenant)
        known.rests_until_ms = 0


def _check_flight(known: KnownBulk, lease: BackgroundLease, moment: Moment) -> None:
    if known.is_closed:
        raise Violation(f"{lease} is handed out, and the bulk is over: {known}")
    if lease.number <= known.lease:
        raise Violation(f"{lease} has no new number: {known}")
    if known.flight_until_ms > moment.end_ms:
        raise Violation(f"{lease} is handed out beside another: {known}")
    if known.rests_until_ms > moment.end_ms + SLACK_MS:
        raise Violation(f"{lease} is handed out at {moment}, and the bulk rests after a fault: {known}")


def _check_passed(bulks: Bulks, root: str, leases: Sequence[BackgroundLease], moment: Moment) -> None:
    """No tenant with a due step and none running is skipped while a slot is free, or by other tenants."""
    there = [one for one in bulks.known.values() if keys.root(one.shard) == root and not one.is_closed]
    handed = [one for one in there if one.id in {lease.delivery for lease in leases}]
    waits = [one for one in there if one.due_by_ms + SLACK_MS < moment.begin_ms and one not in handed]
    flying = [one for one in there if one not in waits]  # as far as may be
    for whose in {tenant for place, tenant in bulks.passed if place == root} - {one.tenant for one in waits}:
        del bulks.passed[root, whose]
    for known in {one.tenant: one for one in waits}.values():
        if any(one.tenant == known.tenant for one in flying):
            continue
        if len(handed) < WANT and len(flying) < SLOTS:
            raise Violation(f"only {handed} are handed out, and the step of {known} is due at {moment}")
        bulks.passed[root, known.tenant] += sum(one.tenant != known.tenant for one in handed)
        if bulks.passed[root, known.tenant] > 2 * len(TENANTS) + WANT:
            raise Violation(f"{bulks.passed} steps of others were begun while one was due of {known}")


async def _adopt(world: World, bulks: Bulks, bulk_id: str) -> KnownBulk:
    bulk = await bulks.may_be(world, bulk_id)
    if bulk is None:
        raise Violation(f"bulk {bulk_id} is handed out, and nobody made it")
    assert bulk is not None
    tenant, lines = bulks.files[bulk.file]
    known = bulks.known[bulk_id] = KnownBulk(bulk_id, tenant, lines, bulk.webhook)
    return known
