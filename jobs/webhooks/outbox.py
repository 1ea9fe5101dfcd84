"""Outbox of webhook deliveries: leases due deliveries, begins attempts and settles them.

The outbox in Redis is the only source of truth about a delivery: its schedule, its attempts, and whether one runs. rq
only carries attempts to threads, and may lose them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import orjson

from jobs.contract.job import Job
from jobs.store import codec
from jobs.store.background_lease import BackgroundLease, read_leases
from jobs.store.job_store import JobStore

Lane = Literal["fast", "slow"]
LANES: Final[tuple[Lane, ...]] = ("fast", "slow")
Verdict = Literal["delivered", "retry", "failed", "stopped", "lost"]
# What a settlement changes on the endpoint, in the order of the script's replies.
SettleResult = Literal["refused", "written", "failing", "well", "paused"]
SETTLE_RESULTS: Final[tuple[SettleResult, ...]] = ("refused", "written", "failing", "well", "paused")
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
# Upper bounds in ms of the histogram of the time from a job's end to its first attempt.
FIRST_ATTEMPT_BUCKETS_MS: Final = (5, 10, 20, 50, 100, 250, 500, 1000, 5000, 15_000, 60_000)


class DeliveryLimits(NamedTuple):
    """Limits of one endpoint, and how long ended deliveries are kept. Times in ms."""

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
    """An attempt to send. `tries`: earlier attempts; `since`: of them, those before the last resend."""

    lease: BackgroundLease
    url: str
    tenant: str
    event: str
    tries: int
    since: int
    age_ms: int
    output_bytes: int
    job: Job | None
    payload: bytes = b""  # of a bulk job: the whole message
    headers: Mapping[str, str] = _NONE  # set by the caller; may contain secrets, so they are never shown
    now_ms: int = 0  # the server's time at the beginning of the attempt


class Settlement(NamedTuple):
    """Result of an attempt. `rest_ms`: pause that the endpoint asked for; `slow` None: unchanged."""

    verdict: Verdict
    entry: dict[str, object]
    after_ms: int = 0
    rest_ms: int = 0
    slow: bool | None = None
    first_ms: int | None = None  # from the job's end to this attempt, if it was the first


async def dispatch_due(
    store: JobStore, root: str, want: int, *, lane: Lane, slots: int, limits: DeliveryLimits
) -> tuple[list[BackgroundLease], float | None]:
    """Lease up to `want` due deliveries of a lane with `slots` slots.

    Also return the seconds until the next delivery is due; None if there is none.
    """
    times, most = (limits.lease_ms, limits.stall_ms), (limits.max_waiting, limits.max_waiting_of_tenant)
    args = (*times, *most, limits.log, limits.ttl_ms)
    return read_leases(await store.run("webhook/dispatch", root, lane, want, slots, *args))


async def begin_attempt(store: JobStore, lease: BackgroundLease, limits: DeliveryLimits) -> Attempt | None:
    """Read what to send for this lease; None if it is no longer valid. An unreadable delivery is stopped."""
    record = await store.run("webhook/begin_attempt", lease.root, *lease, limits.lease_ms)
    if record is None:
        return None
    url, tenant, event, tries, since, age_ms, output_bytes, payload, headers, now_ms = record
    message = payload if payload and payload.startswith(b"{") else b""
    job = None if message else _read_job(payload)
    if job is None and not message:
        await settle_attempt(store, lease, Settlement("stopped", {"error": "unreadable"}), limits)
        return None
    texts = (url.decode(), tenant.decode(), event.decode())
    headers = orjson.loads(headers) if headers else _NONE
    return Attempt(lease, *texts, tries, since, age_ms, output_bytes, job, message, headers, now_ms)


async def settle_attempt(
    store: JobStore, lease: BackgroundLease, settled: Settlement, limits: DeliveryLimits
) -> SettleResult:
    """Record the result of an attempt; refused if the lease is no longer valid.

    Also return whether the endpoint starts failing with it, recovers, or is paused.
    """
    slow = "" if settled.slow is None else str(int(settled.slow))
    first = ("", 0) if settled.first_ms is None else (_bucket(settled.first_ms), settled.first_ms)
    result = (settled.verdict, orjson.dumps(settled.entry), settled.after_ms, settled.rest_ms, slow)
    rules = (limits.room, limits.pause_after_ms, limits.pause_ms, limits.log, limits.ttl_ms, store.ttl_ms)
    args = (*result, *rules, *first, limits.max_waiting_of_tenant)
    answer: int = await store.run("webhook/settle", lease.root, *lease, *args)
    return SETTLE_RESULTS[answer]


def _bucket(ms: int) -> str:
    return next((str(bound) for bound in FIRST_ATTEMPT_BUCKETS_MS if ms <= bound), "inf")


def _read_job(payload: bytes | None) -> Job | None:
    """Decode a job as it was logged at its end."""
    try:
        return codec.read_logged_job(payload or b"")
    except ValueError:
        return None
