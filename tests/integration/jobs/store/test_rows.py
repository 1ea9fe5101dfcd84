"""A job of n rows counts as n: in queues, quotas, running limits, claims and handoffs."""

from typing import Any

import pytest

from jobs.contract.errors import OverLimit, QueueFull, Refused
from jobs.contract.job import Submission
from jobs.redis_client import keys
from jobs.store import codec, dead_letters
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from tests.integration.jobs.conftest import StoreBench
from tests.integration.jobs.tenants.test_tenant_quotas import ENDS


def limit(bench: StoreBench, **settings: Any) -> JobStore:
    """Give the store other settings."""
    settings = {"redis_url": bench.server.url, "max_lost_leases": 3, **settings}
    bench.store = JobStore(StoreSettings(**settings), bench.store.connection)
    return bench.store


def totals(bench: StoreBench) -> dict[str, int]:
    """Read the counters of open and running jobs."""
    with bench.server.client() as client:
        fields = client.hgetall(keys.open_totals(0)).items()
    counted = {name.decode(): int(value) for name, value in fields}
    return {name: value for name, value in counted.items() if name.endswith((":jobs", ":running"))}


def submitted(bench: StoreBench) -> int:
    with bench.server.client() as client:
        return int(client.hget(keys.open_totals(0), "m:submitted") or 0)


async def test_the_record_says_the_rows_and_a_claim_brings_them(bench: StoreBench) -> None:
    many, one = await bench.take(bench.job(rows=7, parameters=b'{"a":1}'), bench.job())
    first, second = await bench.claim()
    assert (first.id, first.rows, first.parameters) == (many.id, 7, b'{"a":1}')
    assert (second.id, second.rows) == (one.id, 0)
    assert submitted(bench) == 2  # jobs, not rows


@pytest.mark.parametrize("end", ENDS)
async def test_the_counters_return_to_zero_however_a_job_of_rows_ends(bench: StoreBench, end: Any) -> None:
    limit(bench, tenant_running=10, tenant_jobs=100)
    await bench.submit(tenant="a", rows=5)
    assert totals(bench) == {"m:jobs": 5, "@a:jobs": 5}
    (job,) = await bench.claim()
    assert totals(bench) == {"m:jobs": 5, "@a:jobs": 5, "@a:running": 5}
    await end(bench, job)
    left = totals(bench)
    assert "@a:running" not in left
    assert left in ({}, {"m:jobs": 5, "@a:jobs": 5})
    if left:
        bench.end_cooldown()
        bench.end_delay(job.id)
        await bench.sweep()
        (again,) = await bench.claim() or await bench.claim_suspects("w1")
        assert (again.id, again.rows) == (job.id, 5)
        assert await bench.store.finish("w1", bench.succeed([again])) == 0
    assert totals(bench) == {}


async def test_a_queued_job_of_rows_that_is_canceled_or_expires_leaves_no_count(bench: StoreBench) -> None:
    limit(bench, tenant_jobs=100)
    canceled, expired = await bench.submit(2, tenant="a", rows=5)
    assert totals(bench) == {"m:jobs": 10, "@a:jobs": 10}
    await bench.store.cancel(canceled, "a")
    bench.pass_deadline(expired)
    assert (await bench.sweep()).expired == 1
    assert totals(bench) == {}


async def test_losing_the_last_lease_leaves_no_count_and_replays_keep_the_rows(bench: StoreBench) -> None:
    limit(bench, tenant_jobs=100, max_lost_leases=1)
    (job_id,) = await bench.submit(tenant="a", rows=5)
    await bench.claim()
    bench.end_lease(job_id)
    assert (await bench.sweep()).given_up == 1
    assert totals(bench) == {}
    assert (await dead_letters.get_dead_letter(bench.store, "a", job_id)).rows == 5


async def test_a_queue_and_a_quota_count_rows(bench: StoreBench) -> None:
    limit(bench, max_jobs=10, tenants='{"a": {"jobs": 6}}')
    await bench.submit(tenant="a", rows=4)
    with pytest.raises(OverLimit, match="4 jobs with 2 bytes"):
        await bench.submit(tenant="a", rows=3)
    await bench.submit(tenant="a", rows=2)
    await bench.submit(tenant="b", rows=3)
    with pytest.raises(QueueFull):
        await bench.submit(tenant="b", rows=2)
    await bench.submit(tenant="b", rows=1)


@pytest.mark.parametrize(("tenant", "most"), [("a", 6), ("b", 10)])
async def test_more_rows_than_may_ever_be_open_are_refused_for_good(bench: StoreBench, tenant: str, most: int) -> None:
    limit(bench, max_jobs=10, tenants='{"a": {"jobs": 6}}')
    with pytest.raises(Refused, match=f"at most {most} may be open") as refused:
        await bench.submit(tenant=tenant, rows=most + 1)
    assert (refused.value.code, refused.value.details) == ("invalid_request", {"limit": most})
    await bench.submit(tenant=tenant, rows=most)


async def test_a_claim_counts_rows_and_takes_the_job_that_fills_it(bench: StoreBench) -> None:
    ids = await bench.submit(4, rows=3)
    claim = await bench.store.claim("m", "1", "w1", 4)
    assert ([job.id for job in claim.jobs], claim.rows, claim.interactive) == (ids[:2], 6, 6)
    assert [job.id for job in await bench.claim(1)] == [ids[2]]
    assert [job.id for job in await bench.claim(64)] == [ids[3]]


async def test_a_claim_takes_one_job_however_many_rows_it_has(bench: StoreBench) -> None:
    (large, small) = [*await bench.submit(rows=64), *await bench.submit()]
    assert [job.id for job in await bench.claim(1)] == [large]
    assert [job.id for job in await bench.claim(1)] == [small]


async def test_jobs_that_a_claim_leaves_keep_their_order(bench: StoreBench) -> None:
    ids = [job_id for rows in (3, 1, 9, 2, 5) for job_id in await bench.submit(rows=rows)]
    found = []
    while claimed := await bench.claim(4):
        found += [job.id for job in claimed]
    assert found == ids


async def test_a_claim_over_shards_stops_when_the_rows_fill_it(bench: StoreBench) -> None:
    store = JobStore(StoreSettings(redis_url=bench.server.url, shards=2), bench.store.connection)
    await bench.take(*(bench.job(shard=nth % 2, rows=4) for nth in range(4)), store=store)
    claim = await store.claim("m", "1", "w1", 4)
    assert (len(claim.jobs), claim.rows) == (1, 4)
    claim = await store.claim("m", "1", "w1", 8)
    assert (len(claim.jobs), claim.rows) == (2, 8)


async def test_bulk_shares_count_rows(bench: StoreBench) -> None:
    await bench.submit(4, lane="bulk", rows=4)
    claim = await bench.store.claim("m", "1", "w1", 32, max_bulk=6)
    assert (len(claim.jobs), claim.bulk, claim.held) == (2, 8, True)
    assert claim.interactive == 0


async def test_a_running_limit_counts_rows(bench: StoreBench) -> None:
    """A job begins while fewer rows than the limit run."""
    limit(bench, tenants='{"a": {"running": 4}}')
    await bench.submit(3, tenant="a", rows=3)
    first = await bench.claim()
    assert len(first) == 2
    assert totals(bench)["@a:running"] == 6
    assert await bench.claim() == []
    await bench.store.finish("w1", bench.succeed(first[:1]))
    assert len(await bench.claim()) == 1


async def test_a_handoff_is_made_only_if_the_rows_fit(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1") as hear:
        assert await bench.claim(8) == []
        small, large, fitting = await bench.take(
            bench.job(rows=5), bench.job(rows=4, tenant="b"), bench.job(rows=3, tenant="c")
        )
        _, handed = codec.read_handoff(hear())
        assert [(job.id, job.rows) for job in handed.jobs] == [(small.id, 5), (fitting.id, 3)]
        assert (handed.free_slots, handed.interactive) == (0, 8)
        assert await bench.state(large.id) == "queued"
    assert [job.id for job in await bench.claim()] == [large.id]


async def test_a_job_that_does_not_fit_wakes_the_worker_which_claims_it(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1") as hear:
        await bench.claim(3)
        (job_id,) = await bench.submit(rows=4)
        assert hear() == b"m 1"
    assert [job.id for job in await bench.claim(3)] == [job_id]


async def test_an_overflow_job_has_one_row(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1") as hear:
        await bench.submit(4, tenant="crowd")
        await bench.claim(2)
        (many,) = await bench.submit(tenant="calm", rows=2)
        (one,) = await bench.submit(tenant="other", rows=1)
        _, handed = codec.read_handoff(hear())
    assert ([job.id for job in handed.jobs], await bench.state(many)) == ([one], "queued")


async def test_rows_of_bulk_jobs_are_counted_in_a_handoff(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1") as hear:
        await bench.claim(8)
        await bench.submit(lane="bulk", rows=5)
        _, handed = codec.read_handoff(hear())
    assert (handed.bulk, handed.interactive, handed.free_slots) == (5, 0, 3)


async def test_a_record_whose_rows_are_no_number_is_unreadable_for_the_worker(bench: StoreBench) -> None:
    """The facts take the place of the parameters, so that the job fails."""
    job: Submission = bench.job(rows=3)
    await bench.take(job)
    with bench.server.client() as client:
        client.hset(keys.job(job.id), "facts", b"\x81\xa4rows\xa1x")
    (claimed,) = await bench.claim()
    assert (claimed.rows, claimed.parameters) == (0, b"\x81\xa4rows\xa1x")
    with bench.server.client() as client:
        client.hset(keys.job(job.id), "facts", b"\x81\xa4rows\xa13")
    await bench.store.finish("w1", bench.succeed([claimed]))


@pytest.mark.parametrize(("settings", "of_a"), [({}, 0.5), ({"tenants": '{"a": {"weight": 3}}'}, 0.75)])
@pytest.mark.parametrize("want", [1, 8, 32])
async def test_tenants_share_rows_whatever_rows_their_jobs_have(
    bench: StoreBench, settings: dict[str, Any], of_a: float, want: int
) -> None:
    """Tenant b sends 64 rows a job; a turn gives it a whole one, which its next turns pay for."""
    limit(bench, **settings)
    await bench.submit(1500, tenant="a")
    await bench.submit(24, tenant="b", rows=64)
    rows = {"a": 0, "b": 0}
    while sum(rows.values()) < 1300:
        claimed = await bench.claim(want)
        assert claimed
        for job in claimed:
            rows[job.tenant] += job.rows or 1
        await bench.store.finish("w1", bench.succeed(claimed))
    assert rows["a"] / sum(rows.values()) == pytest.approx(of_a, abs=0.1), rows


async def test_a_tenant_alone_pays_for_nothing(bench: StoreBench) -> None:
    await bench.submit(5, tenant="b", rows=64)
    assert [len(await bench.claim(8)) for _ in range(5)] == [1] * 5
    await bench.submit(2, tenant="a", rows=64)
    await bench.submit(2, tenant="b", rows=64)
    assert sorted([(await bench.claim(8))[0].tenant for _ in range(4)]) == ["a", "a", "b", "b"]


async def test_more_tenants_in_debt_than_a_claim_reads_are_served_all_the_same(bench: StoreBench) -> None:
    tenants = [f"t{nth}" for nth in range(150)]
    for _ in range(2):
        await bench.take(*(bench.job(tenant=tenant, rows=64) for tenant in tenants))
    found, claims = 0, 0
    while found < 2 * len(tenants):
        claim = await bench.store.claim("m", "1", "w1", 2)
        assert claim.jobs or claim.more
        found, claims = found + len(claim.jobs), claims + 1
    assert claims < 3 * len(tenants)
    await bench.store.finish("w1", [])
