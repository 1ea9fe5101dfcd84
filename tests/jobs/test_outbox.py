"""Deliveries over every server that we promise to run on: written with a job's end, handed out, settled."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from jobs.contract import webhook_request
from jobs.contract.address_policy import Guard
from jobs.contract.background_lease import Flight
from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from jobs.store import maintenance
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from jobs.webhooks import delivery_log, outbox, signing_secrets
from jobs.webhooks.delivery_log import Wanted
from jobs.webhooks.outbox import Attempt, Lane, Limits, News, Settlement
from tests.jobs.conftest import Bench
from tests.support import invariants
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

URL = "https://receiver.example/hook"
GUARD = Guard([], ["https"], [443])
LIMITS = Limits(
    flight_ms=60_000,
    stall_ms=50_000,
    most_waiting=100,
    most_of_tenant=1000,
    room=4,
    pause_after_ms=60_000,
    pause_ms=60_000,
    log=100,
    ttl_ms=60_000,
)


@pytest.fixture(autouse=True)
def checked(bench: Bench) -> Iterator[None]:
    """What is left in the outbox holds together."""
    yield
    with bench.server.client() as client:
        invariants.check_outbox(client)


def hook(url: str = URL, *events: str) -> str:
    return webhook_request.read({"url": url, "events": list(events)}, GUARD)


async def listed(bench: Bench, **wanted: Any) -> list[delivery_log.Delivery]:
    return (await delivery_log.page(bench.store, "default", Wanted(**wanted), None, 100)).deliveries


async def take(
    bench: Bench, want: int = 24, lane: Lane = "fast", slots: int = 24, limits: Limits = LIMITS
) -> list[Flight]:
    flights, _ = await outbox.dispatch(bench.store, bench.store.roots[0], lane, want, slots=slots, limits=limits)
    return flights


async def begin(bench: Bench, flight: Flight) -> Attempt:
    attempt = await outbox.begin(bench.store, flight, LIMITS)
    assert attempt is not None
    return attempt


async def end(bench: Bench, count: int = 1, webhook: str = "", tenant: str = "default") -> list[str]:
    """Have jobs succeed that have a webhook."""
    ids = await bench.submit(count, webhook=webhook or hook(), tenant=tenant)
    await bench.store.finish("w1", bench.succeed(await bench.claim(count)))
    return ids


async def settle(bench: Bench, flight: Flight, **how: Any) -> News:
    settled = Settlement(**{"verdict": "delivered", "entry": {"at_ms": 1, "status": 200}, **how})
    return await outbox.settle(bench.store, flight, settled, LIMITS)


async def succeeds(bench: Bench) -> None:
    await bench.store.finish("w1", bench.succeed(await bench.claim()))


async def fails(bench: Bench) -> None:
    (job,) = await bench.claim()
    error = b'{"code":"inference_failed","message":"m","status":422}'
    await bench.store.finish("w1", [Outcome(job.id, job.attempt, State.FAILED, error, dead=True)])


async def is_canceled(bench: Bench) -> None:
    (job,) = (await bench.store.newest("default", 1 << 60, 1))[0]
    await bench.store.cancel(job.id, "default")


async def expires(bench: Bench) -> None:
    (job,) = (await bench.store.newest("default", 1 << 60, 1))[0]
    bench.age("deadlines", job.id)
    await bench.sweep()


async def is_lost(bench: Bench) -> None:
    for _ in range(3):
        (job,) = await bench.claim() or await bench.try_suspects("w1")
        bench.age("leases", job.id)
        await bench.sweep()


async def is_poison(bench: Bench) -> None:
    (job,) = await bench.claim()
    for _ in range(3):
        await maintenance.bury(bench.store, "w1", [job.claim])
        bench.end_rest()
        job = next(iter(await bench.try_suspects("w1")), job)


ENDS: list[tuple[Callable[[Bench], Awaitable[None]], str]] = [
    (succeeds, "succeeded"),
    (fails, "failed"),
    (is_canceled, "canceled"),
    (expires, "expired"),
    (is_lost, "failed"),
    (is_poison, "failed"),
]


@pytest.mark.parametrize(("ends", "state"), ENDS, ids=[ends.__name__ for ends, _ in ENDS])
async def test_every_end_writes_one_delivery_with_itself(
    bench: Bench, ends: Callable[[Bench], Awaitable[None]], state: str
) -> None:
    (job,) = await bench.submit(webhook=hook())
    await ends(bench)
    assert await bench.state(job) == state
    (delivery,) = await listed(bench)
    assert (delivery.id, delivery.job, delivery.event, delivery.state) == (f"{job}-1", job, f"job.{state}", "waiting")
    (flight,) = await take(bench)
    attempt = await begin(bench, flight)
    (as_read,) = await bench.store.read([job])
    assert (attempt.url, attempt.tries, attempt.job) == (URL, 0, as_read)


async def test_an_end_that_is_not_wanted_writes_none(bench: Bench) -> None:
    await end(bench, webhook=hook(URL, "job.failed"))
    assert await listed(bench) == []
    assert await take(bench) == []


async def test_a_delivery_goes_from_end_to_delivered(bench: Bench) -> None:
    (job,) = await end(bench)
    (flight,) = await take(bench)
    assert await take(bench) == []
    await begin(bench, flight)
    assert await settle(bench, flight) == "written"
    (delivery,) = await listed(bench, job=job)
    assert (delivery.state, delivery.tries, delivery.attempts) == ("delivered", 1, [{"at_ms": 1, "status": 200}])
    assert await settle(bench, flight) == "refused"
    assert await outbox.begin(bench.store, flight, LIMITS) is None


async def test_only_the_last_flight_counts(bench: Bench) -> None:
    await end(bench)
    limits = LIMITS._replace(flight_ms=1)
    (lost,) = await take(bench, limits=limits)
    found: list[Flight] = []

    async def is_back() -> bool:
        found.extend(await take(bench))
        return bool(found)

    await until(is_back, "what was lost is handed out again")
    assert found == [Flight(lost.delivery, lost.number + 1)]
    assert await outbox.begin(bench.store, lost, LIMITS) is None
    assert await settle(bench, lost) == "refused"
    assert await settle(bench, found[0]) == "written"


async def test_an_endpoint_gets_one_attempt_until_it_has_answered_well(bench: Bench) -> None:
    await end(bench, 10)
    (first,) = await take(bench)
    await settle(bench, first)
    flights = await take(bench)
    assert len(flights) == LIMITS.room
    await settle(bench, flights[0], verdict="retry", after_ms=60_000)
    for flight in flights[1:]:
        await settle(bench, flight, verdict="retry", after_ms=60_000)
    assert len(await take(bench)) == 1


async def test_who_has_just_died_leaves_slots_to_others(bench: Bench) -> None:
    """Once half of the slots are taken, nobody gets a second."""
    for nth in range(4):
        await end(bench, 9, hook(f"https://{nth}.example/"))
    for flight in await take(bench, 4):
        await settle(bench, flight)
    assert len(await take(bench, 8, slots=8)) == 4 + 2  # for one of them all it may have, then one for each other
    await end(bench, 1, hook("https://other.example/"))
    assert await take(bench, 2, slots=8) == []  # the last quarter is for other tenants
    await end(bench, 1, hook("https://other.example/"), "calm")
    assert len(await take(bench, 2, slots=8)) == 1


async def test_a_hanging_endpoint_gets_no_second_attempt(bench: Bench) -> None:
    await end(bench, 3)
    (first,) = await take(bench)
    await settle(bench, first)
    limits = LIMITS._replace(room=2, stall_ms=0)
    await take(bench, 1, limits=limits)
    assert await take(bench, limits=limits) == []


async def test_a_slow_endpoint_moves_to_the_slow_lane_and_back(bench: Bench) -> None:
    await end(bench, 3)
    (first,) = await take(bench)
    await settle(bench, first, verdict="retry", after_ms=0, slow=True)
    assert await take(bench) == []
    (second,) = await take(bench, 1, "slow")
    await settle(bench, second, slow=False)
    assert await take(bench, 1, "slow") == []
    assert len(await take(bench, 1)) == 1


async def test_how_an_endpoint_is_is_news_once(bench: Bench) -> None:
    limits = LIMITS._replace(pause_after_ms=0)
    await end(bench, 4)
    news = []
    for verdict in ("retry", "retry", "delivered", "delivered"):
        (flight,) = await take(bench, 1)
        news.append(await settle(bench, flight, verdict=verdict))
    assert news == ["failing", "written", "well", "written"]
    await end(bench)
    (flight,) = await take(bench, 1)
    assert await outbox.settle(bench.store, flight, Settlement("retry", {}), limits) == "paused"
    (endpoint,) = await delivery_log.endpoints(bench.store, "default")
    assert endpoint.paused_until_ms


async def test_a_secret_is_made_once_and_rotates_once(bench: Bench) -> None:
    connection = bench.store.connection
    made = await asyncio.gather(*(signing_secrets.secrets_of(connection, "t") for _ in range(5)))
    assert {tuple(one) for one in made} == {tuple(made[0])}
    new, old = await signing_secrets.rotate(connection, "t", 60)
    assert (old, await signing_secrets.secrets_of(connection, "t")) == (made[0][0], [new, old])
    await signing_secrets.rotate(connection, "t", 0)
    assert new not in await signing_secrets.secrets_of(connection, "t")
    assert await signing_secrets.secrets_of(connection, "other") != await signing_secrets.secrets_of(connection, "t")


async def test_another_tenants_delivery_is_unknown(bench: Bench) -> None:
    (job,) = await end(bench)
    for find in (delivery_log.find, delivery_log.resend):
        with pytest.raises(Exception, match="no delivery"):
            await find(bench.store, "other", f"{job}-1")
    assert (await delivery_log.page(bench.store, "other", Wanted(job=job), None, 10)).deliveries == []
    assert await delivery_log.endpoints(bench.store, "other") == []


async def test_junk_in_place_of_a_line_stops_nobody_else(bench: Bench) -> None:
    await end(bench)
    await end(bench, 1, hook("https://other.example/"))
    (junk,) = [one.id for one in await delivery_log.endpoints(bench.store, "default") if "receiver" in one.origin]
    with bench.server.client() as client:
        client.set(f"jitney:{{s00}}:outbox:{junk}", "junk")
        (flight,) = await take(bench)
        assert (await begin(bench, flight)).url == "https://other.example/"
        await settle(bench, flight)
        client.flushall()


async def test_all_shards_are_drained_and_listed_as_one(bench: Bench) -> None:
    store = JobStore(StoreSettings(redis_url=bench.server.url, shards=2), bench.store.connection)
    jobs = [bench.job(shard=nth % 2, webhook=hook()) for nth in range(6)]
    await bench.take(*jobs, store=store)
    for _ in store.roots:
        await store.finish("w1", bench.succeed((await store.claim("m", "1", "w1", 32)).jobs))
    wanted = Wanted()
    first = await delivery_log.page(store, "default", wanted, None, 4)
    rest = await delivery_log.page(store, "default", wanted, first.after, 4)
    assert sorted(one.job for one in first.deliveries + rest.deliveries) == sorted(job.id for job in jobs)
    (endpoint,) = await delivery_log.endpoints(store, "default")
    assert (endpoint.origin, endpoint.waiting) == ("https://receiver.example:443", 6)
    for root in store.roots:
        (flight,), _ = await outbox.dispatch(store, root, "fast", 1, slots=24, limits=LIMITS)
        assert await settle(bench, flight) == "written"


async def test_the_linked_job_outlives_its_attempts(bench: Bench) -> None:
    (job,) = await end(bench)
    (flight,) = await take(bench)
    await settle(bench, flight, verdict="retry", after_ms=36_000_000)
    with bench.server.client() as client:
        assert client.pttl(f"jitney:{{s00}}:job:{job}") > 36_000_000


async def test_junk_in_place_of_a_delivery_ends_it(bench: Bench) -> None:
    (job,) = await end(bench)
    with bench.server.client() as client:
        client.hset(f"jitney:{{s00}}:delivery:{job}-1", "told", "junk")
    (flight,) = await take(bench)
    assert await outbox.begin(bench.store, flight, LIMITS) is None
    (delivery,) = await listed(bench)
    assert (delivery.state, delivery.attempts) == ("failed", [{"error": "unreadable"}])


async def test_other_headers_to_the_same_url_are_another_delivery(bench: Bench) -> None:
    """Attached with a token to a job that has ended, a webhook was answered with the earlier delivery, without it."""
    (job_id,) = await end(bench)
    with_token = webhook_request.read({"url": URL, "headers": {"x-token": "t"}}, GUARD)
    made = [
        await signing_secrets.attach(bench.store, job_id, "default", one) for one in (hook(), with_token, with_token)
    ]
    assert made == [("posted", f"{job_id}-1"), ("posted", f"{job_id}-2"), ("posted", f"{job_id}-2")]
    sent = {}
    for _ in range(2):  # one at a time, until the receiver is known to be well
        (flight,) = await take(bench)
        sent[flight.delivery[-1]] = dict((await begin(bench, flight)).headers)
        await settle(bench, flight)
    assert sent == {"1": {}, "2": {"x-token": "t"}}
