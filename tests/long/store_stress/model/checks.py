"""Compares everything in Redis with the ledger: queues, leases, counters, lifetimes, leftover keys."""

import re
from collections import Counter
from typing import Any, Final

from jobs.contract.lifecycle import FINAL, State
from jobs.redis_client import keys
from tests.long.store_stress.model.ledger import Job, Violation
from tests.long.store_stress.model.world import TENANTS, World, now_ms
from tests.long.store_stress.steps.bulks import Bulks, check_contents
from tests.support.invariants import UNEXPIRING_WHILE_OPEN

LASTING: Final = [re.compile(pattern) for pattern in keys.LASTING]
ENDLESS: Final = -1
QUEUE_KINDS: Final = {"queue", "timers", "retries", "dead_letters"}


async def check_all(world: World, bulks: Bulks) -> None:
    """Compare; raises Violation with everything that is wrong."""
    found = [name.decode() for name in await world.connection.command("KEYS", "jitney:*")]
    lives = await world.connection.pipeline([("PTTL", key) for key in found]) if found else []
    wrong = _wrong_lifetimes(dict(zip(found, lives, strict=True)))
    wrong += await _wrong_places(world, found)
    wrong += await _wrong_rings(world, found)
    wrong += await _wrong_loads(world)
    wrong += await _wrong_counts(world)
    wrong += await _wrong_deliveries(world)
    wrong += await _wrong_turns(world, bulks, found)
    await world.kept.check()
    await check_contents(world, bulks)
    if wrong:
        raise Violation("\n".join(wrong[:20]))


def _wrong_lifetimes(lives: dict[str, int]) -> list[str]:
    """Only keys on the list, or of open records, may have no expiry."""
    may_stay = [
        key
        for key, life in lives.items()
        if life == ENDLESS
        and not any(pattern.fullmatch(key) for pattern in LASTING)
        and not any(part in key for part in UNEXPIRING_WHILE_OPEN)
    ]
    return [f"{key} never expires and is not on the list" for key in may_stay]


async def _wrong_places(world: World, found: list[str]) -> list[str]:
    """Each open job is in exactly one of queue and retries, or runs, and has a timer; a final one is in none."""
    places: dict[str, list[str]] = {job_id: [] for job_id in world.ledger.open}
    listed = [key for key in found if key.startswith("jitney:{s") and key.split(":")[2] in QUEUE_KINDS]
    members = await world.connection.pipeline([("ZRANGE", key, 0, -1) for key in listed]) if listed else []
    for key, names in zip(listed, members, strict=True):
        for name in names:
            places.setdefault(name.decode().partition(" ")[0], []).append(key)
    wrong = []
    for job_id, lies in places.items():
        job = world.ledger.jobs.get(job_id)
        if job is None:
            wrong.append(f"{job_id} lies in {lies}, and nobody submitted it")
        elif not _is_in_place(job, Counter(key.split(":")[2] for key in lies)):
            wrong.append(f"{job} lies in {lies}")
    finals = [job_id for job_id in world.ledger.ended if world.ledger.jobs[job_id].is_final]
    lives = await world.connection.pipeline([("PTTL", keys.job(job_id)) for job_id in finals]) if finals else []
    wrong += [
        f"{world.ledger.jobs[job_id]} is final, and its record never expires"
        for job_id, life in zip(finals, lives, strict=True)
        if life == ENDLESS
    ]
    return wrong


def _is_in_place(job: Job, lies: Counter[str]) -> bool:
    if job.state in FINAL:
        return lies in (Counter(), Counter(["dead_letters"]))
    if job.is_rerun:  # the letter of its earlier life may not have been swept yet
        lies = lies - Counter(["dead_letters"])
    if job.state == State.RUNNING:
        return lies == Counter(["timers"])
    return lies in (Counter(["queue", "timers"]), Counter(["retries", "timers"]))


async def _wrong_rings(world: World, found: list[str]) -> list[str]:
    """Exactly the tenants (or suspect groups) with a non-empty queue are in the rotation or parked."""
    wanted: dict[str, set[str]] = {key: set() for key in found if ":tenant_rotation:" in key}
    for key in found:
        if ":queue:" in key:
            ring, whose = key.replace(":queue:", ":tenant_rotation:").rsplit(":", 1)
            wanted.setdefault(ring, set()).add(whose)
    rings = list(wanted)
    turns = await world.connection.pipeline([("LRANGE", ring, 0, -1) for ring in rings]) if rings else []
    places = {ring: [name.decode() for name in names] for ring, names in zip(rings, turns, strict=True)}
    wrong = []
    for root in world.store.roots:
        parked = await _parked(world, root, found)
        listed = {name.decode() for name in await world.connection.command("ZRANGE", f"{root}:parked", 0, -1)}
        if listed != set(parked):
            wrong.append(f"{root}: parked are {listed}, and rings are noted of {sorted(parked)}")
        for tenant, left in parked.items():
            if not world.tenants.limits(tenant).running and tenant not in world.limited_ms:
                wrong.append(f"{root}: {tenant} is parked, and may run as many as it likes")
            for name in left:
                places.setdefault(name, []).append(tenant)
    return wrong + [
        f"{ring} turns among {names}, its lines are of {sorted(wanted.get(ring, ()))}"
        for ring, names in places.items()
        if sorted(names) != sorted(wanted.get(ring, ()))
    ]


async def _parked(world: World, root: str, found: list[str]) -> dict[str, list[str]]:
    """Read which rotations each parked tenant of a shard has left."""
    prefix = f"{root}:parked:"
    listed = [key for key in found if key.startswith(prefix)]
    left = await world.connection.pipeline([("SMEMBERS", key) for key in listed]) if listed else []
    return {
        key.removeprefix(prefix): [f"{root}:tenant_rotation:{name.decode().replace(' ', ':')}" for name in names]
        for key, names in zip(listed, left, strict=True)
    }


async def _wrong_loads(world: World) -> list[str]:
    """The counters of open and running jobs are right."""
    wrong = []
    for shard in range(world.settings.shards):
        record = await world.connection.command("HGETALL", keys.open_totals(shard))
        counted = {
            name.decode(): int(count)
            for name, count in record.items()
            if name not in {b"sequence", b"outputs"} and not name.endswith((b":submitted", b":outputs")) and int(count)
        }
        wanted = {name: n for (where, name), n in world.ledger.loads.items() if where == shard and n}
        for tenant in TENANTS:
            if running := world.running(tenant, shard):
                wanted[f"@{tenant}:running"] = running
        if counted != wanted:
            differ = {
                n: (counted.get(n, 0), wanted.get(n, 0)) for n in {*counted, *wanted} if counted.get(n) != wanted.get(n)
            }
            wrong.append(f"shard {shard} counts as load (counted, promised): {differ}")
    return wrong


async def _wrong_counts(world: World) -> list[str]:
    """Each job was counted once when it was accepted, and once when it ended."""
    counted = await world.store.counts()
    return [
        f"{name} was counted {counted.get(name, 0)} times, and happened {times} times"
        for name, times in world.ledger.counts.items()
        if counted.get(name, 0) != times
    ]


async def _wrong_deliveries(world: World) -> list[str]:
    """Every delivery is kept until it is sent, and is where its state says."""
    known = list(world.ledger.deliveries.values())[-300:]
    fields = ("state", "tries", "endpoint")
    records = (
        await world.connection.pipeline([("HMGET", keys.delivery(one.id), *fields) for one in known]) if known else []
    )
    wrong = []
    for one, (state, tries, _) in zip(known, records, strict=True):
        if state is None:
            wrong.append(f"{one} is kept no more")
        elif (state.decode(), int(tries)) != (one.state, one.tries):
            wrong.append(f"{one} is {state.decode()} after {int(tries)} tries")
    return wrong


async def _wrong_turns(world: World, bulks: Bulks, found: list[str]) -> list[str]:
    """Each open bulk job waits in its tenant's queue or runs; exactly the tenants with waiting ones take turns."""
    places: dict[str, list[str]] = {known.id: [] for known in bulks.known.values() if not known.is_closed}
    wrong = []
    for root in world.store.roots:
        names = [
            f"{root}:bulk_due",
            f"{root}:bulk_running",
            *(key for key in found if key.startswith(f"{root}:bulk_due:")),
        ]
        turns, *answers = await world.connection.pipeline([("ZRANGE", name, 0, -1) for name in names])
        for name, members in zip(names[1:], answers, strict=True):
            for bulk_id in members:
                places.setdefault(bulk_id.decode(), []).append(name)
        if sorted(tenant.decode() for tenant in turns) != sorted(name.rpartition(":")[2] for name in names[2:]):
            wrong.append(f"{root}: {turns} take turns at steps, and there are {names[2:]}")
    for bulk_id, lies in places.items():
        known = bulks.known.get(bulk_id)
        if known is None:
            wrong += (
                [] if await bulks.may_be(world, bulk_id) else [f"bulk {bulk_id} lies in {lies}, and nobody made it"]
            )
        elif known.is_closed:
            wrong.append(f"{known} is over, and lies in {lies}")
        elif lies not in (
            [f"{keys.root(known.shard)}:{where}"] for where in (f"bulk_due:{known.tenant}", "bulk_running")
        ):
            wrong.append(f"{known} is open, and lies in {lies}")
    return wrong


async def check_sums(world: World) -> None:
    """At the end of an episode all work has ended, and each line of a bulk job was counted once."""
    counts = await world.store.counts()
    sums = Counter[str]()
    for name, count in counts.items():
        for prefix in ("webhooks:ended:", "bulks:ended:", "bulks:lines:"):
            sums[prefix] += count if name.startswith(prefix) else 0
    wanted = {
        "webhooks:ended:": counts.get("webhooks:posted", 0),
        "bulks:ended:": counts.get("bulks:opened", 0),
        "bulks:lines:": world.ledger.lines_stored,
    }
    if any(sums[prefix] != count for prefix, count in wanted.items()):
        raise Violation(f"counted as ended: {dict(sums)}, and begun: {wanted}")


async def check_left(world: World) -> None:
    """At the end of an episode only permanent and expiring keys are left."""
    found = [name.decode() for name in await world.connection.command("KEYS", "jitney:*")]
    lives = await world.connection.pipeline([("PTTL", key) for key in found]) if found else []
    left = [
        key
        for key, life in zip(found, lives, strict=True)
        if life == ENDLESS and not any(pattern.fullmatch(key) for pattern in LASTING)
    ]
    if left:
        raise Violation(f"keys are left that never expire: {sorted(left)[:20]}")


def summary(found: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items()))


def is_over(ms: float) -> bool:
    return now_ms() > ms
