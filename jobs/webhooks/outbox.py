"""The outbox as whoever delivers uses it: hand out what is due, begin an attempt, settle it.

The outbox is the only truth about a delivery: its schedule, its attempts, and whether it is under way. What carries an
attempt to a thread (rq) may lose everything it has.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import orjson

from jobs.contract.background_lease import BackgroundLease
from jobs.contract.ids import shard_of
from jobs.contract.job import Job
from jobs.redis_client import keys
from jobs.store import codec
from jobs.store.job_store import JobStore

Lane = Literal["fast", "slow"]
LANES: Final[tuple[Lane, ...]] = ("fast", "slow")
Verdict = Literal["delivered", "retry", "failed", "stopped", "lost"]
# What settling an attempt means beyond it, in the order of the script's answers.
SettleResult = Literal["refused", "written", "failing", "well", "paused"]
SETTLE_RESULTS: Final[tuple[SettleResult, ...]] = ("refused", "written", "failing", "well", "paused")
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
# Upper bounds, in ms, of the time from a job's end to its first attempt, as they are counted.
FIRST_ATTEMPT_BUCKETS_MS: Final = (5, 10, 20, 50, 100, 250, 500, 1000, 5000, 15_000, 60_000)


class DeliveryLimits(NamedTuple):
    """What one endpoint may have, and how long what has ended is kept. Times in ms."""

    lease_ms: int
    stall_ms: int
    max_waiting: int
    max_waiting_of_tenant: int
    room: int
    pause_after_ms: int
    pause_ms: int
    log: int
    ttl_ms: int


class Attempt(NamedTuple):
    """What is to be sent. `tries`: attempts before this one; `since`: how many of them before it was last sent anew."""

    lease: BackgroundLease
    url: str
    tenant: str
    event: str
    tries: int
    since: int
    age_ms: int
    output_bytes: int
    job: Job | None
    payload: bytes = b""  # of a bulk: the whole message
    headers: Mapping[str, str] = _NONE  # those of the receiver: they may be secrets, and are shown nowhere
    now_ms: int = 0  # the server's time as the attempt began


class Settlement(NamedTuple):
    """How an attempt went. `rest_ms`: the endpoint asked for quiet; `slow` None: that is not known anew."""

    verdict: Verdict
    entry: dict[str, object]
    after_ms: int = 0
    rest_ms: int = 0
    slow: bool | None = None
    first_ms: int | None = None  # from the job's end to this attempt, where it was the first


async def dispatch_due(
    store: JobStore, root: str, lane: Lane, want: int, *, slots: int, limits: DeliveryLimits
) -> tuple[list[BackgroundLease], float | None]:
    """Take up to `want` deliveries that are due, for a lane of so many slots.

    Also says in how many seconds the next is due; None: there is none.
    """
    words = (
        limits.lease_ms,
        limits.stall_ms,
        limits.max_waiting,
        limits.max_waiting_of_tenant,
        limits.log,
        limits.ttl_ms,
    )
    next_ms, *handed = await store.run("webhook/dispatch", root, lane, want, slots, *words)
    leases = [
        BackgroundLease(name.decode(), int(number)) for name, number in zip(handed[::2], handed[1::2], strict=True)
    ]
    return leases, None if next_ms < 0 else next_ms / 1000


async def begin_attempt(store: JobStore, lease: BackgroundLease, limits: DeliveryLimits) -> Attempt | None:
    """Read what this flight is to send; None: nothing any more, or nothing readable (which ends the delivery)."""
    found = await store.run("webhook/begin_attempt", _root(lease), lease.delivery, lease.number, limits.lease_ms)
    if found is None:
        return None
    url, tenant, event, tries, since, age_ms, output_bytes, payload, headers, now_ms = found
    whole = payload if payload and payload.startswith(b"{") else b""
    job = None if whole else _read_job(payload)
    if job is None and not whole:
        await settle_attempt(store, lease, Settlement("stopped", {"error": "unreadable"}), limits)
        return None
    words = (url.decode(), tenant.decode(), event.decode())
    sent_along = orjson.loads(headers) if headers else _NONE
    return Attempt(lease, *words, tries, since, age_ms, output_bytes, job, whole, sent_along, now_ms)


async def settle_attempt(
    store: JobStore, lease: BackgroundLease, settled: Settlement, limits: DeliveryLimits
) -> SettleResult:
    """Write down how an attempt went, unless that is refused: it was no longer this flight's to say.

    Also tells where the endpoint begins to fail with it, is well again, or is paused from now on.
    """
    slow = "" if settled.slow is None else str(int(settled.slow))
    first = ("", 0) if settled.first_ms is None else (_bucket(settled.first_ms), settled.first_ms)
    how = (settled.verdict, orjson.dumps(settled.entry), settled.after_ms, settled.rest_ms, slow)
    rules = (limits.room, limits.pause_after_ms, limits.pause_ms, limits.log, limits.ttl_ms, store.ttl_ms)
    answer: int = await store.run("webhook/settle", _root(lease), lease.delivery, lease.number, *how, *rules, *first)
    return SETTLE_RESULTS[answer]


def _bucket(ms: int) -> str:
    return next((str(bound) for bound in FIRST_ATTEMPT_BUCKETS_MS if ms <= bound), "inf")


def _read_job(payload: bytes | None) -> Job | None:
    """Read a job as its end was written down."""
    try:
        return codec.read_logged_job(orjson.loads(payload or b""))
    except ValueError:
        return None


def _root(lease: BackgroundLease) -> str:
    return keys.root(shard_of(lease.delivery))
