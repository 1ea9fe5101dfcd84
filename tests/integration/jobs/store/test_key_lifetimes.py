"""Index entries live as long as the records they name, and each use restarts the lifetime.

The row: a tenant's list of jobs vanished a week after its first job, whatever came later.
"""

import pytest

from jobs.bulk import files, records
from jobs.bulk.files import File
from jobs.bulk.records import BulkRequest
from jobs.bulk.settings import BulkSettings
from jobs.contract import webhook_request
from jobs.contract.address_policy import AddressPolicy
from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.store import job_store as store_module
from jobs.store.background_lease import BackgroundLease
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from jobs.webhooks import delivery_log, outbox
from jobs.webhooks.delivery_log import DeliveryFilter
from jobs.webhooks.outbox import Settlement
from tests.integration.jobs.conftest import StoreBench
from tests.integration.jobs.test_outbox import LIMITS

ROOT = "jitney:{s00}"
MONTH_S = 30 * 86_400
HOOK = webhook_request.read_webhook("https://receiver.example/hook", AddressPolicy([], ["https"], [443]))
SETTINGS = BulkSettings()


def age(bench: StoreBench, *names: str) -> None:
    """Set the lifetime of keys to one minute."""
    with bench.server.client() as client:
        for name in names:
            assert client.expire(f"{ROOT}:{name}", 60), name


def left_s(bench: StoreBench, name: str) -> int:
    with bench.server.client() as client:
        return int(client.ttl(f"{ROOT}:{name}"))


@pytest.mark.parametrize("last_digits", ["01", "40"])  # only with the latter it is cut too
async def test_every_submit_renews_its_tenants_list(bench: StoreBench, last_digits: str) -> None:
    await bench.submit()
    age(bench, "tenant_jobs:default")
    await bench.take(bench.job(id="00" + "0" * 30 + last_digits))
    assert left_s(bench, "tenant_jobs:default") >= store_module.JOB_LIST_TTL_S


async def test_the_job_list_of_a_tenant_is_trimmed(bench: StoreBench) -> None:
    settings = bench.store.settings.model_copy(update={"job_list_limit": 5})
    bench.store = JobStore(settings, bench.store.connection)
    await bench.take(*(bench.job(id=f"00{nth:032x}") for nth in range(1, 65)))
    jobs, _ = await bench.store.newest("default", 1 << 60, 100)
    assert [job.id for job in jobs] == [f"00{nth:032x}" for nth in range(64, 59, -1)]


async def test_a_key_lives_as_long_as_its_job_may_be_open(bench: StoreBench) -> None:
    """A week's deadline, and a key of a day: sent again on the second day it would be another job."""
    week_ms = 7 * 86_400_000
    await bench.take(bench.job(idempotency_key="k", digest="d", deadline_ms=week_ms))
    await bench.take(bench.job(idempotency_key="short", digest="d", deadline_ms=1000))
    assert left_s(bench, "idempotency:default:k") > 7 * 86_400 - 60
    assert 86_400 - 60 < left_s(bench, "idempotency:default:short") <= 86_400
    many = [bench.job(idempotency_key=f"many {nth}", digest="d", deadline_ms=week_ms // nth) for nth in (1, 7)]
    await bench.take(*many)
    await bench.take(bench.job(idempotency_key="many 8", digest="d", deadline_ms=1000))
    assert left_s(bench, "idempotency_many:default:many") > 7 * 86_400 - 60


async def test_a_failed_job_can_be_read_as_long_as_any_result(bench: StoreBench) -> None:
    """Also where dead letters are kept for a shorter time."""
    settings = StoreSettings(redis_url=bench.server.url, dead_letter_ttl_s=5, result_ttl_s=500)
    bench.store = JobStore(settings, bench.store.connection)
    (job_id,) = await bench.submit()
    (job,) = await bench.claim()
    body = b'{"code":"inference_failed","message":"m","status":422}'
    await bench.store.finish("w1", [Outcome(job.id, job.attempt, State.FAILED, body, dead=True)])
    assert left_s(bench, f"job:{job_id}") > 400


# ---- deliveries


async def delivered(bench: StoreBench) -> delivery_log.Delivery:
    """Create a successful delivery."""
    await bench.submit(webhook=HOOK)
    await bench.store.finish("w1", bench.succeed(await bench.claim()))
    await outbox.settle_attempt(bench.store, await take(bench), Settlement("delivered", {"status": 200}), LIMITS)
    (delivery,) = (await delivery_log.list_deliveries(bench.store, "default", DeliveryFilter(), None, 10)).records
    return delivery


async def take(bench: StoreBench) -> BackgroundLease:
    ((lease,), _) = await outbox.dispatch_due(
        bench.store, bench.store.roots[0], 1, lane="fast", slots=24, limits=LIMITS
    )
    return lease


async def test_a_resent_delivery_stays_listed(bench: StoreBench) -> None:
    delivery = await delivered(bench)
    lists = ("deliveries:default", "endpoints:default", f"endpoint:{delivery.endpoint}")
    age(bench, *lists, f"delivery:{delivery.id}")
    await delivery_log.resend(bench.store, "default", delivery.id)
    assert {left_s(bench, name) for name in (*lists, f"delivery:{delivery.id}")} == {MONTH_S}


async def test_a_delivery_outlives_the_wait_for_its_next_attempt(bench: StoreBench) -> None:
    """For any retry schedule."""
    await bench.submit(webhook=HOOK)
    await bench.store.finish("w1", bench.succeed(await bench.claim()))
    lease = await take(bench)
    wait_s = 2 * MONTH_S
    await outbox.settle_attempt(bench.store, lease, Settlement("retry", {"status": 500}, wait_s * 1000), LIMITS)
    (endpoint,) = await delivery_log.list_endpoints(bench.store, "default")
    for name in (f"delivery:{lease.delivery}", f"endpoint:{endpoint.id}", "deliveries:default"):
        assert left_s(bench, name) > wait_s, name


async def test_lists_live_as_long_as_deliveries_are_kept(bench: StoreBench) -> None:
    await bench.submit(webhook=HOOK)
    await bench.store.finish("w1", bench.succeed(await bench.claim()))
    kept_s = 3 * MONTH_S
    limits = LIMITS._replace(ttl_ms=kept_s * 1000)
    await outbox.settle_attempt(bench.store, await take(bench), Settlement("delivered", {"status": 200}), limits)
    for name in ("deliveries:default", "ended_deliveries:default", "endpoints:default"):
        assert left_s(bench, name) >= kept_s, name


async def test_a_webhook_is_kept_no_longer_than_its_job_needs_it(bench: StoreBench) -> None:
    ended, letter = await bench.submit(2, webhook=HOOK)
    first, second = await bench.claim()
    body = b'{"code":"inference_failed","message":"m","status":422}'
    await bench.store.finish("w1", bench.succeed([first]))
    await bench.store.finish("w1", [Outcome(second.id, second.attempt, State.FAILED, body, dead=True)])
    with bench.server.client() as client:
        assert client.hget(keys.job(ended), "webhook") is None
        assert client.hget(keys.job(letter), "webhook") == HOOK.encode()  # it tells of a replay's end too


# ---- files of batches


async def test_a_file_is_removed_only_when_it_is_no_longer_in_use(bench: StoreBench) -> None:
    file = File(files.new_file_id(0), "default", "lines", "batch", 7, 0, 1)
    await files.add_file(bench.store, SETTINGS, file)
    age(bench, "files:default")
    asked = BulkRequest(file.id, "/v1/jobs", "24h", 60_000, b"{}", "", "", "k", False, 0)
    await records.create_bulk(bench.store, SETTINGS, "default", asked, 1_000)
    assert left_s(bench, "files:default") > MONTH_S
    assert left_s(bench, "expiring_files") == -1  # until the file is gone
