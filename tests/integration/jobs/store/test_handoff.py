"""Submit hands jobs off, under a lease, to a worker with free slots; nobody has to claim them."""

import pytest

from jobs.redis_client import keys
from jobs.store import codec
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from jobs.tenants.limits import LimitOverride
from tests.integration.jobs.conftest import StoreBench

LARGE = b"x" * (32 * 1024 + 1)


async def test_free_slots_get_their_jobs_without_a_claim(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1") as hear:
        assert await bench.claim(3) == []
        ids = await bench.submit(2, input=b"a\0b\r\n")
        station, (jobs, free_slots, _) = codec.read_handoff(hear())
    assert (station, free_slots) == ("m 1", 1)
    assert [(job.id, job.attempt, job.input, job.kind, job.parameters) for job in jobs] == [
        (job_id, 1, b"a\0b\r\n", "raw", b"{}") for job_id in ids
    ]
    assert all(job.claimed_us == job.created_us < job.deadline_ms * 1000 for job in jobs)
    assert [await bench.state(job_id) for job_id in ids] == ["running", "running"]
    assert await bench.claim() == []
    assert await bench.store.finish("w1", bench.succeed(jobs)) == 0
    assert [await bench.state(job_id) for job_id in ids] == ["succeeded", "succeeded"]


async def test_no_more_jobs_than_free_slots_are_handed_off_and_in_order(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1") as hear:
        await bench.claim(3)
        ids = await bench.submit(5)
        _, (jobs, free_slots, _) = codec.read_handoff(hear())
    assert (free_slots, [job.id for job in jobs]) == (0, ids[:3])
    assert [job.id for job in await bench.claim()] == ids[3:]


async def test_the_worker_with_most_free_slots_comes_first(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1") as hear, bench.subscribe_worker("w2") as hear_too:
        await bench.claim(2, "w1")
        await bench.claim(3, "w2")
        ids = await bench.submit(5)
        assert [job.id for job in codec.read_handoff(hear_too())[1].jobs] == ids[:3]
        assert [job.id for job in codec.read_handoff(hear())[1].jobs] == ids[3:]


async def test_slots_kept_from_bulk_are_for_interactive_jobs(bench: StoreBench) -> None:
    """And the handoff tells the worker how many of its jobs are bulk."""
    with bench.subscribe_worker("w1") as hear:
        await bench.submit(40, lane="bulk", tenant="a")
        assert (await bench.store.claim("m", "1", "w1", 6, max_bulk=0)).held
        (passing,) = await bench.submit(lane="bulk", tenant="b")  # its own queue is empty
        assert await bench.state(passing) == "queued"
        ids = await bench.submit(7, tenant="b")  # nobody was woken for bulk: these find the slots free
        _, handed = codec.read_handoff(hear())
        assert ([job.id for job in handed.jobs], handed.bulk, handed.free_slots) == (ids[:6], 0, 0)
        assert (await bench.claim(1))[0].id == ids[6]
        assert len(await bench.claim(64)) == 41
        ids = await bench.submit(3, lane="bulk") + await bench.submit()
        _, handed = codec.read_handoff(hear())
        assert ([job.id for job in handed.jobs], handed.bulk, handed.interactive) == (ids[:3], 3, 0)


async def test_a_worker_that_refuses_bulk_does_not_hide_another(bench: StoreBench) -> None:
    """And its key expires."""
    with bench.subscribe_worker("keeps") as keeps, bench.subscribe_worker("takes") as takes:
        await bench.submit(40, lane="bulk")
        assert (await bench.store.claim("m", "1", "keeps", 32, max_bulk=0)).held
        assert len(await bench.claim(50, "takes")) == 40
        await bench.submit(lane="bulk", input=LARGE)
        assert takes() == b"m 1"
        await bench.submit(lane="bulk", input=LARGE)  # nobody else waits for bulk
        with bench.server.client() as client:
            assert client.zrange("jitney:{s00}:free_slots:m:1", 0, -1) == [b"keeps 20000"]
            assert client.ttl("jitney:{s00}:free_slots:m:1") > 0
        both = [bench.job(lane="bulk", tenant="b"), bench.job()]  # in one step
        await bench.take(*both)
        _, handed = codec.read_handoff(keeps())
        assert [job.id for job in handed.jobs] == [both[1].id]


async def test_a_worker_that_does_not_listen_gets_no_handoff(bench: StoreBench) -> None:
    await bench.claim(3, "dead")
    ids = await bench.submit(2)
    assert [job.id for job in await bench.claim()] == ids


async def test_a_handoff_does_not_overtake_queued_jobs(bench: StoreBench) -> None:
    """The first job found no free slot: it waits, and so does the job behind it, although a slot is free by then."""
    (first,) = await bench.submit()
    with bench.subscribe_worker("w1"), bench.server.client() as client:
        client.zadd(keys.free_slots(0, "m", "1"), {"w1 20000": 3})
        (second,) = await bench.submit()
    assert [job.id for job in await bench.claim()] == [first, second]


async def test_queued_jobs_wake_all_idle_workers(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1") as hear, bench.subscribe_worker("w2") as hear_too:
        for worker in ("w1", "w2"):
            await bench.claim(3, worker)
        bench.store.tenants.update({"default": LimitOverride(running=100)})  # its jobs are claimed, not handed over
        await bench.submit(2)
        assert (hear(), hear_too()) == (b"m 1", b"m 1")


async def test_withdrawn_slots_get_nothing(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1"):
        await bench.claim(3)
        await bench.store.withdraw_free_slots("m", "1", "w1")
        await bench.submit()
    assert len(await bench.claim()) == 1


async def test_an_isolated_run_frees_no_slots(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1"):
        await bench.claim(3)
        assert await bench.claim_suspects("w1") == []
        await bench.submit()
    assert len(await bench.claim()) == 1


async def test_a_lost_handoff_goes_back_to_the_queue(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1"):
        await bench.claim(3)
        (job_id,) = await bench.submit()
    bench.end_lease(job_id)
    assert (await bench.sweep()).reclaimed == 1
    (job,) = await bench.claim(worker="w2")
    assert (job.id, job.attempt) == (job_id, 2)


async def test_free_slots_are_divided_among_the_shards(bench: StoreBench) -> None:
    store = JobStore(StoreSettings(redis_url=bench.server.url, shards=2), bench.store.connection)
    with bench.subscribe_worker("w1") as hear:
        await store.claim("m", "1", "w1", 4)
        await bench.take(*(bench.job(shard=nth % 2) for nth in range(6)), store=store)
        handed = [codec.read_handoff(hear()) for _ in range(2)]
    assert [(free_slots, len(jobs)) for _, (jobs, free_slots, _) in handed] == [(0, 2), (0, 2)]
    assert len((await store.claim("m", "1", "w1", 4)).jobs) == 2


@pytest.mark.parametrize(
    "notice",
    [
        *(b"", b"m 1", b"\x93", b"\x93\xa3m 1\xa1x\x90", b"\x93\xa3m 1\x03", b"\x93\xa3m 1\x03\x91\xa1a"),
        *(b"\x93\x01\x03\x90", b"\x93\xa3m 1\xc0\x90", b"\x93\xa3m 1\x03\x90\x01", b"\x93\xa1\xff\x03\x90"),
        b"\x93\xa3m 1\x03\xc0",
    ],
)
def test_a_malformed_handoff_is_refused(notice: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        codec.read_handoff(notice)


async def test_a_full_worker_takes_one_overflow_job_of_a_tenant_without_a_queue(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1") as hear:
        crowd = await bench.submit(4, tenant="crowd")
        assert len(await bench.claim(2)) == 2
        (overflow,) = await bench.submit(tenant="calm")
        runner, (jobs, free_slots, _) = codec.read_handoff(hear())
        assert (runner, free_slots, [job.id for job in jobs]) == ("m 1", -1, [overflow])
        (second,) = await bench.submit(tenant="calm")  # one overflow job a claim
        assert await bench.state(second) == "queued"
    assert await bench.store.finish("w1", bench.succeed(jobs)) == 0
    assert {job.id for job in await bench.claim(3)} == {second, *crowd[2:]}


async def test_a_tenant_with_a_queue_has_no_overflow_job(bench: StoreBench) -> None:
    with bench.subscribe_worker("w1"):
        await bench.submit(4, tenant="crowd")
        await bench.claim(2)
        (late,) = await bench.submit(tenant="crowd")
    assert await bench.state(late) == "queued"


@pytest.mark.parametrize("leave", [True, False])
async def test_a_worker_that_leaves_or_is_silent_takes_no_overflow_job(bench: StoreBench, leave: bool) -> None:
    await bench.submit(4, tenant="crowd")
    await bench.claim(2)
    if leave:
        with bench.subscribe_worker("w1"):
            await bench.store.withdraw_free_slots("m", "1", "w1")
            (calm,) = await bench.submit(tenant="calm")
    else:
        (calm,) = await bench.submit(tenant="calm")
    assert await bench.state(calm) == "queued"


async def test_without_a_queue_there_are_no_overflow_jobs(bench: StoreBench) -> None:
    """It will be claimed with the next batch anyway."""
    with bench.subscribe_worker("w1"):
        await bench.submit(2, tenant="crowd")
        await bench.claim(2)
        (calm,) = await bench.submit(tenant="calm")
    assert await bench.state(calm) == "queued"


@pytest.mark.parametrize(("of_gateway_s", "of_worker_s"), [(2, 20), (20, 2)])
async def test_a_handed_off_job_has_the_lease_that_its_worker_renews(
    bench: StoreBench, of_gateway_s: float, of_worker_s: float
) -> None:
    """JITNEY_LEASE_S was the gateway's for such jobs, so with another value at the worker each job ran twice."""
    settings = bench.store.settings
    gateway, worker = (
        JobStore(StoreSettings(redis_url=settings.redis_url, lease_s=one), bench.store.connection)
        for one in (of_gateway_s, of_worker_s)
    )
    with bench.subscribe_worker("w1"), bench.server.client() as client:
        await worker.claim("m", "1", "w1", 1)
        (handed_off,) = await bench.take(bench.job(), store=gateway)
        await bench.take(bench.job(), bench.job(), store=gateway)
        await worker.claim("m", "1", "w1", 1)  # leaves one queued: the worker takes an overflow job from now on
        (overflow,) = await bench.take(bench.job(tenant="b"), store=gateway)
        seconds, us = client.time()
        now_ms = seconds * 1000 + us // 1000
        for job in (handed_off, overflow):
            assert await bench.state(job.id) == "running"
            left_s = (client.zscore("jitney:{s00}:timers", job.id) - now_ms) / 1000
            assert of_worker_s - 10 < left_s <= of_worker_s
        await worker.withdraw_free_slots("m", "1", "w1")
        assert client.exists("jitney:{s00}:free_slots:m:1") == 0
