"""The data of a job that has ended is erased early: nothing of it is left in any key, and the counters are right."""

import re

import pytest

from jobs.contract import webhook_request
from jobs.contract.address_policy import AddressPolicy
from jobs.contract.errors import Refused
from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.store import dead_letters, outputs
from jobs.store.job_erasure import erase_job
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from jobs.webhooks import delivery_log, outbox
from jobs.webhooks.delivery_log import DeliveryFilter
from jobs.webhooks.outbox import Settlement
from tests.integration.jobs.conftest import StoreBench
from tests.integration.jobs.test_outbox import LIMITS
from tests.support import invariants

HOOK = webhook_request.read_webhook("https://receiver.example/hook", AddressPolicy([], ["https"], [443]))
DEAD = b'{"code":"inference_failed","message":"m","status":422}'


def traces(bench: StoreBench, job_id: str) -> list[str]:
    """List the keys that have the id in their name, or anywhere in their value."""
    found, wanted = [], job_id.encode()
    with bench.server.client() as client:
        for key in client.scan_iter(count=1000):
            reads = {
                b"hash": client.hgetall,
                b"zset": lambda key: client.zrange(key, 0, -1),
                b"set": client.smembers,
                b"list": lambda key: client.lrange(key, 0, -1),
                b"stream": client.xrange,
                b"string": client.get,
            }
            if wanted in key or wanted in repr(reads[client.type(key)](key)).encode():
                found.append(key.decode())
    return found


async def test_a_succeeded_job_leaves_no_trace(bench: StoreBench) -> None:
    bench.store.listened = frozenset({"default"})
    (job_id, other) = await bench.submit(2, webhook=HOOK, input=b"x" * 40_000)
    await bench.store.finish("w1", bench.succeed(await bench.claim(), b'"%s"' % (b"y" * 100_000)))
    assert len(traces(bench, job_id)) > 5
    await erase_job(bench.store, job_id, "default")
    assert traces(bench, job_id) == []
    assert await bench.state(other) == "succeeded"
    kept = await outputs.count_kept_bytes(bench.store.connection, 1)
    assert kept[""] == 100_002
    with bench.server.client() as client:
        invariants.check_outbox(client)


async def test_the_chunks_of_a_large_output_are_erased(bench: StoreBench) -> None:
    (job_id,) = await bench.submit()
    (job,) = await bench.claim()
    outcome = Outcome(job.id, job.attempt, State.SUCCEEDED, b"", batch_size=1, chunks=[b"a" * 100_000, b"b" * 100_000])
    writer = outputs.OutputWriter(bench.store.connection, 20)
    written = await writer.write(outcome, lambda: True)
    assert written is not None
    await bench.store.finish("w1", [written])
    assert (await outputs.count_kept_bytes(bench.store.connection, 1))[""] == 200_000
    await erase_job(bench.store, job_id, "default")
    assert traces(bench, job_id) == []
    assert (await outputs.count_kept_bytes(bench.store.connection, 1))[""] == 0


async def test_a_small_output_of_a_tenant_with_a_limit_of_bytes_is_no_longer_counted(bench: StoreBench) -> None:
    settings = StoreSettings(redis_url=bench.server.url, tenant_bytes=1000)
    bench.store = JobStore(settings, bench.store.connection)
    first, _ = await bench.submit(2)
    await bench.store.finish("w1", bench.succeed(await bench.claim(), b"x" * 100))
    assert (await outputs.count_kept_bytes(bench.store.connection, 1, ["default"]))["default"] == 200
    await erase_job(bench.store, first, "default")
    assert (await outputs.count_kept_bytes(bench.store.connection, 1, ["default"]))["default"] == 100
    assert traces(bench, first) == []


async def test_a_dead_letter_is_erased_with_its_input(bench: StoreBench) -> None:
    small, large = await bench.submit(), await bench.submit(input=b"x" * 40_000)
    outcomes = [Outcome(job.id, job.attempt, State.FAILED, DEAD, dead=True) for job in await bench.claim()]
    await bench.store.finish("w1", outcomes)
    assert await dead_letters.count_dead_letters(bench.store) == (2, 40_002)
    for job_id in (*small, *large):
        await erase_job(bench.store, job_id, None)
        assert traces(bench, job_id) == []
    assert await dead_letters.count_dead_letters(bench.store) == (0, 0)


async def test_a_delivery_under_way_is_dropped_and_its_lease_is_lost(bench: StoreBench) -> None:
    (job_id,) = await bench.submit(webhook=HOOK)
    await bench.store.finish("w1", bench.succeed(await bench.claim()))
    ((lease,), _) = await outbox.dispatch_due(
        bench.store, bench.store.roots[0], 1, lane="fast", slots=24, limits=LIMITS
    )
    await erase_job(bench.store, job_id, "default")
    await outbox.settle_attempt(bench.store, lease, Settlement("delivered", {"status": 200}), LIMITS)
    page = await delivery_log.list_deliveries(bench.store, "default", DeliveryFilter(), None, 10)
    assert page.records == []
    counts = await bench.store.counts()
    assert (counts["webhooks:posted"], counts["webhooks:ended:purged"]) == (1, 1)
    assert traces(bench, job_id) == []


@pytest.mark.parametrize("tenant", ["default", None])
async def test_an_open_job_is_refused_and_a_foreign_one_is_unknown(bench: StoreBench, tenant: str | None) -> None:
    (job_id,) = await bench.submit()
    with pytest.raises(Refused, match="has not ended") as refused:
        await erase_job(bench.store, job_id, tenant)
    assert refused.value.code == "job_not_final"
    with pytest.raises(Refused, match=re.escape(f"no job {job_id}")):
        await erase_job(bench.store, job_id, "acme")
    with pytest.raises(Refused, match="no job"):
        await erase_job(bench.store, "00" + "0" * 32, tenant)
    with bench.server.client() as client:
        assert client.exists(keys.job(job_id))
