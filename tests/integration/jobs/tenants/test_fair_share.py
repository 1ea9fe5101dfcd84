"""Tenants take turns at shared resources, for any number of origins, bulk jobs or deliveries.

The row: one tenant whose webhooks named 240 silent origins delayed another's by two minutes.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from jobs.bulk import checkpoints, files, records
from jobs.bulk.files import File
from jobs.bulk.records import Bulk, BulkRequest
from jobs.bulk.settings import BulkSettings
from jobs.contract import webhook_request
from jobs.contract.address_policy import AddressPolicy
from jobs.redis_client import keys
from jobs.store.background_lease import BackgroundLease
from jobs.webhooks import outbox
from jobs.webhooks.outbox import Lane, Settlement
from tests.integration.jobs.conftest import StoreBench
from tests.integration.jobs.test_outbox import LIMITS
from tests.support import invariants

GUARD = AddressPolicy([], ["https"], [443])
SETTINGS = BulkSettings()
FLIGHT_MS = 60_000


@pytest.fixture(autouse=True)
def checked(bench: StoreBench) -> Iterator[None]:
    """Check that the remaining outbox is consistent."""
    yield
    with bench.server.client() as client:
        invariants.check_outbox(client)


async def end(bench: StoreBench, tenant: str, origins: int, first: int = 0) -> None:
    """Have jobs of a tenant succeed, each with a webhook of an origin of its own."""
    jobs = [
        bench.job(tenant=tenant, webhook=webhook_request.read_webhook(f"https://{tenant}-{nth}.example/", GUARD))
        for nth in range(first, first + origins)
    ]
    await bench.take(*jobs)
    await bench.store.finish("w1", bench.succeed(await bench.claim(origins)))


async def take(bench: StoreBench, want: int, slots: int, lane: Lane = "fast") -> list[BackgroundLease]:
    leases, _ = await outbox.dispatch_due(
        bench.store, bench.store.roots[0], want, lane=lane, slots=slots, limits=LIMITS
    )
    return leases


def whose(bench: StoreBench, leases: list[BackgroundLease]) -> Counter[str]:
    with bench.server.client() as client:
        return Counter(client.hget(keys.delivery(one.delivery), "tenant").decode() for one in leases)


async def settle(
    bench: StoreBench, leases: list[BackgroundLease], *, slow: bool = False, after_ms: int = 60_000
) -> None:
    for lease in leases:
        settled = Settlement("retry", {"at_ms": 1, "error": "no answer in time"}, after_ms, slow=slow or None)
        await outbox.settle_attempt(bench.store, lease, settled, LIMITS)


async def test_many_origins_of_one_tenant_leave_room_for_others(bench: StoreBench) -> None:
    await end(bench, "flood", 100)
    assert whose(bench, await take(bench, 24, 24)) == {"flood": 18}  # alone it has all but a quarter
    await end(bench, "calm", 1)
    assert whose(bench, await take(bench, 6, 24)) == {"calm": 1}


async def test_two_tenants_have_half_each_for_any_number_of_origins(bench: StoreBench) -> None:
    await end(bench, "flood", 100)
    await end(bench, "calm", 20)
    assert whose(bench, await take(bench, 24, 24)) == {"flood": 6, "calm": 6}  # beyond half nobody gets a second
    await end(bench, "third", 1)
    assert whose(bench, await take(bench, 12, 24)) == {"third": 1}


@pytest.mark.parametrize("lane", ["fast", "slow"])
async def test_free_slots_go_to_the_tenants_in_turn(bench: StoreBench, lane: Lane) -> None:
    for tenant, origins in (("a", 40), ("b", 3), ("c", 3)):
        await end(bench, tenant, origins)
    if lane == "slow":
        for _ in range(46):
            await settle(bench, await take(bench, 1, 1), slow=True, after_ms=0)
    seen: Counter[str] = Counter()
    for _ in range(9):
        leases = await take(bench, 1, 1, lane)
        seen += whose(bench, leases)
        await settle(bench, leases, slow=lane == "slow")
    assert seen == {"a": 3, "b": 3, "c": 3}


async def test_a_tenant_that_writes_more_does_not_move_forward(bench: StoreBench) -> None:
    await end(bench, "flood", 10)
    await end(bench, "calm", 1)
    await settle(bench, await take(bench, 1, 1))
    await end(bench, "flood", 10, first=10)
    assert whose(bench, await take(bench, 1, 1)) == {"calm": 1}


async def test_junk_in_place_of_the_endpoints_of_a_tenant_stops_nothing(bench: StoreBench) -> None:
    await end(bench, "calm", 1)
    with bench.server.client() as client:
        client.zadd("jitney:{s00}:due:fast", {"junk": 1})
        client.set("jitney:{s00}:due:fast:junk", "x", ex=60)
        assert whose(bench, await take(bench, 8, 8)) == {"calm": 1}
        client.delete("jitney:{s00}:due:fast:junk")


# ---- steps of batches


async def open_bulk(bench: StoreBench, tenant: str) -> Bulk:
    file = File(files.new_file_id(0), tenant, "lines", "batch", 7, 0, 1 << 50)
    await files.add_file(bench.store, SETTINGS, file)
    asked = BulkRequest(file.id, "/v1/jobs", "24h", 60_000, b"{}", "", "", file.id, False, 0)
    return await records.create_bulk(bench.store, SETTINGS, tenant, asked, 1_000)


async def dispatch(bench: StoreBench, want: int, slots: int) -> list[BackgroundLease]:
    return (await checkpoints.dispatch_due_steps(bench.store, bench.store.roots[0], want, slots, FLIGHT_MS))[0]


async def test_bulk_steps_alternate_between_tenants_for_any_number_of_bulk_jobs(bench: StoreBench) -> None:
    many = {(await open_bulk(bench, "flood")).id for _ in range(20)}
    (few,) = {(await open_bulk(bench, "calm")).id}
    made: list[str] = []
    for _ in range(6):
        (lease,) = await dispatch(bench, 1, 1)
        made.append("calm" if lease.delivery == few else "flood")
        assert lease.delivery in {*many, few}
        await checkpoints.finish_step(bench.store, lease, 0)
    assert Counter(made) == {"calm": 3, "flood": 3}


async def test_a_tenant_leaves_a_thread_to_others(bench: StoreBench) -> None:
    """A step may take long: a file of gigabytes is validated in one."""
    for _ in range(5):
        await open_bulk(bench, "flood")
    assert len(await dispatch(bench, 2, 2)) == 1
    calm = await open_bulk(bench, "calm")
    assert [lease.delivery for lease in await dispatch(bench, 1, 2)] == [calm.id]


async def test_the_end_of_a_bulk_job_makes_room_for_the_next_of_its_tenant(bench: StoreBench) -> None:
    """The end of a step advances its tenant's turn; the last step of a bulk job once did not."""
    for _ in range(2):
        await open_bulk(bench, "a")
    (first,) = await dispatch(bench, 2, 2)  # the other one has to leave a thread to others
    with bench.server.client() as client:
        client.zadd("jitney:{s00}:bulk_due", {"a": 1 << 50})  # as long as the step may take
    assert await dispatch(bench, 2, 2) == []
    await checkpoints.close_bulk(bench.store, first, checkpoints.BulkCompletion("completed", "", b"", {}), 60)
    (second,) = await dispatch(bench, 2, 2)
    assert second.delivery != first.delivery


async def test_a_lost_step_is_handed_out_again(bench: StoreBench) -> None:
    bulk = await open_bulk(bench, "a")
    (lost,) = await dispatch(bench, 1, 1)
    with bench.server.client() as client:
        client.zadd("jitney:{s00}:bulk_running", {bulk.id: 1})
    assert await dispatch(bench, 1, 1) == [BackgroundLease(bulk.id, lost.number + 1)]


async def test_shared_capacity_is_divided_among_tenants_before_bulk_jobs(bench: StoreBench) -> None:
    for _ in range(9):
        await open_bulk(bench, "flood")
    calm = await open_bulk(bench, "calm")
    leases = await dispatch(bench, 2, 8)
    parts = {
        lease.delivery: (await checkpoints.begin_step(bench.store, lease, FLIGHT_MS)).open_bulks for lease in leases
    }
    assert parts.pop(calm.id) == 2
    assert set(parts.values()) == {2 * 9}
