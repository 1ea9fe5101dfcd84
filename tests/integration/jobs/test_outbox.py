"""Webhook deliveries on every supported server: written with a job's end, handed out, settled."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from jobs.contract import webhook_request
from jobs.contract.address_policy import AddressPolicy
from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from jobs.store import maintenance
from jobs.store.background_lease import BackgroundLease
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from jobs.webhooks import delivery_log, outbox, signing_secrets
from jobs.webhooks.delivery_log import DeliveryFilter
from jobs.webhooks.outbox import Attempt, DeliveryLimits, Lane, Settlement, SettleResult
from tests.integration.jobs.conftest import StoreBench
from tests.support import invariants
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.anyio

URL = "https://receiver.example/hook"
GUARD = AddressPolicy([], ["https"], [443])
LIMITS = DeliveryLimits(
    lease_ms=60_000,
    stall_ms=50_000,
    max_waiting=100,
    max_waiting_of_tenant=1000,
    room=4,
    pause_after_ms=60_000,
    pause_ms=60_000,
    log=100,
    ttl_ms=60_000,
)


@pytest.fixture(autouse=True)
def checked(bench: StoreBench) -> Iterator[None]:
    """Check that the remaining outbox is consistent."""
    yield
    with bench.server.client() as client:
        invariants.check_outbox(client)


def hook(url: str = URL, *events: str) -> str:
    return webhook_request.read_webhook({"url": url, "events": list(events)}, GUARD)


async def listed(bench: StoreBench, **wanted: Any) -> list[delivery_log.Delivery]:
    return (await delivery_log.list_deliveries(bench.store, "default", DeliveryFilter(**wanted), None, 100)).records


async def take(
    bench: StoreBench, want: int = 24, lane: Lane = "fast", slots: int = 24, limits: DeliveryLimits = LIMITS
) -> list[BackgroundLease]:
    leases, _ = await outbox.dispatch_due(
        bench.store, bench.store.roots[0], want, lane=lane, slots=slots, limits=limits
    )
    return leases


async def begin(bench: StoreBench, lease: BackgroundLease) -> Attempt:
    attempt = await outbox.begin_attempt(bench.store, lease, LIMITS)
    assert attempt is not None
    return attempt


async def end(bench: StoreBench, count: int = 1, webhook: str = "", tenant: str = "default") -> list[str]:
    """Finish jobs that have a webhook."""
    ids = await bench.submit(count, webhook=webhook or hook(), tenant=tenant)
    await bench.store.finish("w1", bench.succeed(await bench.claim(count)))
    return ids


async def settle(bench: StoreBench, lease: BackgroundLease, **how: Any) -> SettleResult:
    settled = Settlement(**{"verdict": "delivered", "entry": {"at_ms": 1, "status": 200}, **how})
    return await outbox.settle_attempt(bench.store, lease, settled, LIMITS)


async def succeeds(bench: StoreBench) -> None:
    await bench.store.finish("w1", bench.succeed(await bench.claim()))


async def fails(bench: StoreBench) -> None:
    (job,) = await bench.claim()
    error = b'{"code":"inference_failed","message":"m","status":422}'
    await bench.store.finish("w1", [Outcome(job.id, job.attempt, State.FAILED, error, dead=True)])


async def is_canceled(bench: StoreBench) -> None:
    (job,) = (await bench.store.newest("default", 1 << 60, 1))[0]
    await bench.store.cancel(job.id, "default")


async def expires(bench: StoreBench) -> None:
    (job,) = (await bench.store.newest("default", 1 << 60, 1))[0]
    bench.pass_deadline(job.id)
    await bench.sweep()


async def is_lost(bench: StoreBench) -> None:
    for _ in range(3):
        (job,) = await bench.claim() or await bench.claim_suspects("w1")
        bench.end_lease(job.id)
        await bench.sweep()


async def is_poison(bench: StoreBench) -> None:
    (job,) = await bench.claim()
    for _ in range(3):
        await maintenance.recover_dead_worker(bench.store, "w1", [job.claim])
        bench.end_cooldown()
        job = next(iter(await bench.claim_suspects("w1")), job)


ENDS: list[tuple[Callable[[StoreBench], Awaitable[None]], str]] = [
    (succeeds, "succeeded"),
    (fails, "failed"),
    (is_canceled, "canceled"),
    (expires, "expired"),
    (is_lost, "failed"),
    (is_poison, "failed"),
]


@pytest.mark.parametrize(("ends", "state"), ENDS, ids=[ends.__name__ for ends, _ in ENDS])
async def test_every_end_of_a_job_writes_one_delivery(
    bench: StoreBench, ends: Callable[[StoreBench], Awaitable[None]], state: str
) -> None:
    (job,) = await bench.submit(webhook=hook())
    await ends(bench)
    assert await bench.state(job) == state
    (delivery,) = await listed(bench)
    assert (delivery.id, delivery.job, delivery.event, delivery.state) == (f"{job}-1", job, f"job.{state}", "waiting")
    (lease,) = await take(bench)
    attempt = await begin(bench, lease)
    (as_read,) = await bench.store.read([job])
    assert (attempt.url, attempt.tries, attempt.job) == (URL, 0, as_read)


async def test_an_end_without_a_subscription_writes_no_delivery(bench: StoreBench) -> None:
    await end(bench, webhook=hook(URL, "job.failed"))
    assert await listed(bench) == []
    assert await take(bench) == []


async def test_a_delivery_goes_from_end_to_delivered(bench: StoreBench) -> None:
    (job,) = await end(bench)
    (lease,) = await take(bench)
    assert await take(bench) == []
    await begin(bench, lease)
    assert await settle(bench, lease) == "written"
    (delivery,) = await listed(bench, job=job)
    assert (delivery.state, delivery.tries, delivery.attempts) == ("delivered", 1, [{"at_ms": 1, "status": 200}])
    assert await settle(bench, lease) == "refused"
    assert await outbox.begin_attempt(bench.store, lease, LIMITS) is None


async def test_only_the_latest_lease_of_a_delivery_counts(bench: StoreBench) -> None:
    await end(bench)
    limits = LIMITS._replace(lease_ms=1)
    (lost,) = await take(bench, limits=limits)
    found: list[BackgroundLease] = []

    async def is_back() -> bool:
        found.extend(await take(bench))
        return bool(found)

    await wait_until_async(is_back, "what was lost is handed out again")
    assert found == [BackgroundLease(lost.delivery, lost.number + 1)]
    assert await outbox.begin_attempt(bench.store, lost, LIMITS) is None
    assert await settle(bench, lost) == "refused"
    assert await settle(bench, found[0]) == "written"


async def test_an_endpoint_gets_one_attempt_at_a_time_until_one_succeeds(bench: StoreBench) -> None:
    await end(bench, 10)
    (first,) = await take(bench)
    await settle(bench, first)
    leases = await take(bench)
    assert len(leases) == LIMITS.room
    await settle(bench, leases[0], verdict="retry", after_ms=60_000)
    for lease in leases[1:]:
        await settle(bench, lease, verdict="retry", after_ms=60_000)
    assert len(await take(bench)) == 1


async def test_an_endpoint_that_has_just_failed_leaves_slots_to_others(bench: StoreBench) -> None:
    """Once half of the slots are taken, no endpoint gets a second one."""
    for nth in range(4):
        await end(bench, 9, hook(f"https://{nth}.example/"))
    for lease in await take(bench, 4):
        await settle(bench, lease)
    assert len(await take(bench, 8, slots=8)) == 4 + 2  # for one of them all it may have, then one for each other
    await end(bench, 1, hook("https://other.example/"))
    assert await take(bench, 2, slots=8) == []  # the last quarter is for other tenants
    await end(bench, 1, hook("https://other.example/"), "calm")
    assert len(await take(bench, 2, slots=8)) == 1


async def test_a_hanging_endpoint_gets_no_second_attempt(bench: StoreBench) -> None:
    await end(bench, 3)
    (first,) = await take(bench)
    await settle(bench, first)
    limits = LIMITS._replace(room=2, stall_ms=0)
    await take(bench, 1, limits=limits)
    assert await take(bench, limits=limits) == []


async def test_a_slow_endpoint_moves_to_the_slow_lane_and_back(bench: StoreBench) -> None:
    await end(bench, 3)
    (first,) = await take(bench)
    await settle(bench, first, verdict="retry", after_ms=0, slow=True)
    assert await take(bench) == []
    (second,) = await take(bench, 1, "slow")
    await settle(bench, second, slow=False)
    assert await take(bench, 1, "slow") == []
    assert len(await take(bench, 1)) == 1


async def test_a_change_of_an_endpoints_state_is_reported_once(bench: StoreBench) -> None:
    limits = LIMITS._replace(pause_after_ms=0)
    await end(bench, 4)
    news = []
    for verdict in ("retry", "retry", "delivered", "delivered"):
        (lease,) = await take(bench, 1)
        news.append(await settle(bench, lease, verdict=verdict))
    assert news == ["failing", "written", "well", "written"]
    await end(bench)
    (lease,) = await take(bench, 1)
    assert await outbox.settle_attempt(bench.store, lease, Settlement("retry", {}), limits) == "paused"
    (endpoint,) = await delivery_log.list_endpoints(bench.store, "default")
    assert endpoint.paused_until_ms


async def test_a_secret_is_made_once_and_rotates_once(bench: StoreBench) -> None:
    connection = bench.store.connection
    made = await asyncio.gather(*(signing_secrets.read_secrets(connection, "t") for _ in range(5)))
    assert {tuple(one) for one in made} == {tuple(made[0])}
    new, old = await signing_secrets.rotate_secret(connection, "t", 60)
    assert (old, await signing_secrets.read_secrets(connection, "t")) == (made[0][0], [new, old])
    await signing_secrets.rotate_secret(connection, "t", 0)
    assert new not in await signing_secrets.read_secrets(connection, "t")
    assert await signing_secrets.read_secrets(connection, "other") != await signing_secrets.read_secrets(
        connection, "t"
    )


async def test_another_tenants_delivery_is_unknown(bench: StoreBench) -> None:
    (job,) = await end(bench)
    for find in (delivery_log.get_delivery, delivery_log.resend):
        with pytest.raises(Exception, match="no delivery"):
            await find(bench.store, "other", f"{job}-1")
    assert (await delivery_log.list_deliveries(bench.store, "other", DeliveryFilter(job=job), None, 10)).records == []
    assert await delivery_log.list_endpoints(bench.store, "other") == []


async def test_junk_in_place_of_a_queue_stops_no_other(bench: StoreBench) -> None:
    await end(bench)
    await end(bench, 1, hook("https://other.example/"))
    (junk,) = [one.id for one in await delivery_log.list_endpoints(bench.store, "default") if "receiver" in one.origin]
    with bench.server.client() as client:
        client.set(f"jitney:{{s00}}:outbox:{junk}", "junk")
        (lease,) = await take(bench)
        assert (await begin(bench, lease)).url == "https://other.example/"
        await settle(bench, lease)
        client.flushall()


async def test_all_shards_are_dispatched_and_listed_as_one(bench: StoreBench) -> None:
    store = JobStore(StoreSettings(redis_url=bench.server.url, shards=2), bench.store.connection)
    jobs = [bench.job(shard=nth % 2, webhook=hook()) for nth in range(6)]
    await bench.take(*jobs, store=store)
    for _ in store.roots:
        await store.finish("w1", bench.succeed((await store.claim("m", "1", "w1", 32)).jobs))
    wanted = DeliveryFilter()
    first = await delivery_log.list_deliveries(store, "default", wanted, None, 4)
    rest = await delivery_log.list_deliveries(store, "default", wanted, first.after, 4)
    assert sorted(one.job for one in first.records + rest.records) == sorted(job.id for job in jobs)
    (endpoint,) = await delivery_log.list_endpoints(store, "default")
    assert (endpoint.origin, endpoint.waiting) == ("https://receiver.example:443", 6)
    for root in store.roots:
        (lease,), _ = await outbox.dispatch_due(store, root, 1, lane="fast", slots=24, limits=LIMITS)
        assert await settle(bench, lease) == "written"


async def test_the_linked_job_outlives_its_attempts(bench: StoreBench) -> None:
    (job,) = await end(bench)
    (lease,) = await take(bench)
    await settle(bench, lease, verdict="retry", after_ms=36_000_000)
    with bench.server.client() as client:
        assert client.pttl(f"jitney:{{s00}}:job:{job}") > 36_000_000


async def test_junk_in_place_of_a_delivery_ends_it(bench: StoreBench) -> None:
    (job,) = await end(bench)
    with bench.server.client() as client:
        client.hset(f"jitney:{{s00}}:delivery:{job}-1", "payload", "junk")
    (lease,) = await take(bench)
    assert await outbox.begin_attempt(bench.store, lease, LIMITS) is None
    (delivery,) = await listed(bench)
    assert (delivery.state, delivery.attempts) == ("failed", [{"error": "unreadable"}])


async def test_different_headers_to_the_same_url_are_another_delivery(bench: StoreBench) -> None:
    """Attached with a token to a job that has ended, a webhook was answered with the earlier delivery, without it."""
    (job_id,) = await end(bench)
    with_token = webhook_request.read_webhook({"url": URL, "headers": {"x-token": "t"}}, GUARD)
    made = [
        await signing_secrets.attach_webhook(bench.store, job_id, "default", one)
        for one in (hook(), with_token, with_token)
    ]
    assert made == [("posted", f"{job_id}-1"), ("posted", f"{job_id}-2"), ("posted", f"{job_id}-2")]
    sent = {}
    for _ in range(2):  # one at a time, until the receiver is known to be well
        (lease,) = await take(bench)
        sent[lease.delivery[-1]] = dict((await begin(bench, lease)).headers)
        await settle(bench, lease)
    assert sent == {"1": {}, "2": {"x-token": "t"}}
