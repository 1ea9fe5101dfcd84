"""Dead workers, suspects, retries and dead letters in the store; a job that kills is found by bisection."""

import itertools

import pytest

from jobs.contract.errors import QueueFull
from jobs.contract.job import ClaimedJob, Outcome
from jobs.contract.lifecycle import State
from jobs.metrics import histograms
from jobs.metrics.histograms import HistogramBuffer
from jobs.models.worker_registry import WorkerReport, read_cluster_state, register_worker
from jobs.store.job_store import JobStore
from jobs.store.maintenance import recover_dead_worker, sweep
from tests.integration.jobs.conftest import StoreBench


def failed(job: ClaimedJob, *, dead: bool = False) -> Outcome:
    return Outcome(job.id, job.attempt, State.FAILED, b'{"code":"x","message":"m","status":422}', dead=dead)


def again(job: ClaimedJob, after_ms: int) -> Outcome:
    return Outcome(job.id, job.attempt, State.QUEUED, b"", after_ms=after_ms)


async def test_jobs_of_a_dead_worker_return_to_the_queue_at_once(bench: StoreBench) -> None:
    ids = await bench.submit(4)
    await bench.claim(2)
    await bench.claim(1, worker="w2")
    assert await recover_dead_worker(bench.store, "w1", []) == (2, 0, 0)
    assert [job.id for job in await bench.claim(worker="w3")] == [ids[0], ids[1], ids[3]]


async def test_suspects_are_split_and_run_one_suspect_group_at_a_time(bench: StoreBench) -> None:
    ids = await bench.submit(5)
    claims = [job.claim for job in await bench.claim()]
    assert await recover_dead_worker(bench.store, "w1", claims[:4]) == (1, 4, 0)
    claim = await bench.store.claim("m", "1", "w2", 32)
    assert ([job.id for job in claim.jobs], claim.suspects) == ([ids[4]], True)
    first = await bench.claim_suspects("w2")
    assert len(first) == 2
    assert await bench.claim_suspects("w3") == []  # while w2 tries its cell
    assert not (await bench.store.claim("m", "1", "w3", 32)).suspects
    await bench.store.finish("w2", bench.succeed(first))
    second = await bench.claim_suspects("w3")
    assert {job.id for job in (*first, *second)} == set(ids[:4])


async def test_a_job_that_kills_is_found_by_bisection_and_fails_alone(bench: StoreBench) -> None:
    ids = await bench.submit(8)
    culprit, kills, workers = ids[5], 1, map(str, itertools.count())  # each process has a name of its own
    await recover_dead_worker(bench.store, "w1", [job.claim for job in await bench.claim()])
    while await bench.state(culprit) != "failed":
        worker = next(workers)
        cell = await bench.claim_suspects(worker)
        if culprit in {job.id for job in cell}:
            kills += 1
            await recover_dead_worker(bench.store, worker, [job.claim for job in cell])
            bench.end_cooldown()
        else:
            await bench.store.finish(worker, bench.succeed(cell))
    while cell := await bench.claim_suspects("last"):
        await bench.store.finish("last", bench.succeed(cell))
    assert kills == 4  # 8, 4, 2, 1
    (job,) = await bench.store.read([culprit])
    assert job is not None
    assert b'"poison"' in (job.error or b"")
    assert {await bench.state(job_id) for job_id in ids if job_id != culprit} == {"succeeded"}


async def test_an_isolated_run_continues_though_the_first_job_of_its_group_has_ended(bench: StoreBench) -> None:
    await bench.submit(8)
    await recover_dead_worker(bench.store, "w1", [job.claim for job in await bench.claim()])
    first, *others = await bench.claim_suspects("w2")
    await bench.store.finish("w2", [failed(first)])
    assert await bench.claim_suspects("w3") == []
    await recover_dead_worker(bench.store, "w2", [job.claim for job in others])
    assert await bench.claim_suspects("w3") == []  # it rests
    bench.end_cooldown()
    assert await bench.claim_suspects("w3")


async def test_a_job_is_poison_only_after_it_ran_alone(bench: StoreBench) -> None:
    await bench.submit(2)
    for kill in range(6):
        claimed = await bench.claim() or await bench.claim_suspects(f"w{kill}")
        claimed += await bench.claim_suspects(f"w{kill}") if kill else []
        worker = f"w{kill}" if kill else "w1"
        # Two are executing each time, though split: as if the suspect groups had run together.
        accused = [job.claim for job in claimed]
        assert (await recover_dead_worker(bench.store, worker, [*accused, ("00" + "0" * 32, 1)])).poison == 0
        bench.end_cooldown()


async def test_after_an_isolated_run_that_killed_the_cooldown_lasts_until_the_worker_is_back(bench: StoreBench) -> None:
    await bench.submit(2)
    await recover_dead_worker(bench.store, "w1", [job.claim for job in await bench.claim()])
    cell = await bench.claim_suspects("w2")
    await recover_dead_worker(bench.store, "w2", [job.claim for job in cell])
    assert await bench.claim_suspects("w3") == []
    assert not (await bench.store.claim("m", "1", "w3", 32)).suspects
    with bench.server.client() as client:
        assert 0 < client.pttl("jitney:{s00}:isolation:m:1") <= 3000
    bench.end_cooldown()
    assert len(await bench.claim_suspects("w3")) == 1


async def test_a_claim_that_was_superseded_is_no_suspect(bench: StoreBench) -> None:
    (job_id,) = await bench.submit()
    (old,) = await bench.claim()
    bench.end_lease(job_id)
    await bench.sweep()
    await bench.claim(worker="w1")  # the same worker again, another attempt
    assert await recover_dead_worker(bench.store, "w1", [old.claim]) == (1, 0, 0)


async def test_a_job_lost_twice_runs_alone(bench: StoreBench) -> None:
    ids = await bench.submit(2)
    for _ in range(2):
        assert len(await bench.claim()) == 2
        for job_id in ids:
            bench.end_lease(job_id)
        await bench.sweep()
    assert await bench.claim() == []
    cell = await bench.claim_suspects("w2")
    assert len(cell) == 1
    await bench.store.finish("w2", bench.succeed(cell))
    assert len(await bench.claim_suspects("w2")) == 1


async def test_a_suspect_can_be_canceled_and_can_expire(bench: StoreBench) -> None:
    first, second = await bench.submit(2)
    await recover_dead_worker(bench.store, "w1", [job.claim for job in await bench.claim()])
    await bench.store.cancel(first, "default")
    bench.pass_deadline(second)
    await bench.sweep()
    assert [await bench.state(job_id) for job_id in (first, second)] == ["canceled", "expired"]
    assert await bench.claim_suspects("w2") == []


async def test_a_retry_waits_and_returns_to_its_queue_position(bench: StoreBench) -> None:
    ids = await bench.submit(2)
    (claimed,) = await bench.claim(1)
    assert [await bench.store.finish("w1", [again(claimed, 60_000)]) for _ in range(2)] == [0, 0]  # sent twice
    assert await bench.state(claimed.id) == "queued"
    assert (await bench.sweep()).due == 0
    bench.end_delay(claimed.id)
    assert (await bench.sweep()).due == 1
    retried = await bench.claim()
    assert [(job.id, job.retries) for job in retried] == [(ids[0], 1), (ids[1], 0)]
    assert (await bench.store.counts())["retried:m"] == 1


async def test_a_job_that_waits_for_its_retry_can_be_canceled_and_can_expire(bench: StoreBench) -> None:
    first, second = await bench.submit(2)
    await bench.store.finish("w1", [again(job, 60_000) for job in await bench.claim()])
    await bench.store.cancel(first, "default")
    bench.pass_deadline(second)
    await bench.sweep()
    assert [await bench.state(job_id) for job_id in (first, second)] == ["canceled", "expired"]


async def test_late_results_are_refused_and_counted(bench: StoreBench) -> None:
    (job_id,) = await bench.submit()
    claimed = await bench.claim()
    bench.end_lease(job_id)
    await bench.sweep()
    assert await bench.store.finish("w1", bench.succeed(claimed)) == 1
    assert (await bench.store.counts())["late:m"] == 1


async def test_a_jump_of_the_server_clock_expires_no_lease(bench: StoreBench) -> None:
    (job_id,) = await bench.submit()
    await bench.claim()
    bench.end_lease(job_id)
    swept = await sweep(bench.store, latest_ms=0)
    assert (swept.reclaimed, swept.now_ms > 0) == (0, True)
    assert (await sweep(bench.store, latest_ms=swept.now_ms - 1)).reclaimed == 0
    assert (await sweep(bench.store, latest_ms=swept.now_ms + 60_000)).reclaimed == 1


async def test_a_dead_letter_keeps_its_input_until_it_is_old(bench: StoreBench) -> None:
    (job_id,) = await bench.submit(input=b"exactly this")
    (claimed,) = await bench.claim()
    await bench.store.finish("w1", [failed(claimed, dead=True)])
    with bench.server.client() as client:
        assert client.hget(f"jitney:{{s00}}:job:{job_id}", "body") == b"exactly this"
        client.zadd("jitney:{s00}:dead_letters", {f"{job_id} 12 default": 1})
        assert (await bench.sweep()).purged == 1
        assert client.hget(f"jitney:{{s00}}:job:{job_id}", "body") is None
    assert await bench.state(job_id) == "failed"


async def test_dead_letters_make_room_for_newer_ones(bench: StoreBench) -> None:
    few = bench.store.settings.model_copy(update={"dead_letters": 3, "dead_letter_bytes": 20})
    store = JobStore(few, bench.store.connection)
    await bench.submit(5, input=b"in")
    await bench.submit(2, input=b"x" * 15)
    with bench.server.client() as client:
        for claimed in await bench.claim():
            await store.finish("w1", [failed(claimed, dead=True)])
            kept = [int(member.split()[1]) for member in client.zrange("jitney:{s00}:dead_letters", 0, -1)]
            assert 1 <= len(kept) <= 3
            assert sum(kept) <= 20


async def test_workers_stay_registered_on_a_full_server(bench: StoreBench) -> None:
    report, connection = WorkerReport("w1", 1, "here", ["m 1"]), bench.store.connection
    histogram_buffer = HistogramBuffer()
    histogram_buffer.observe("size", [4])
    with bench.server.client() as client:
        client.config_set("maxmemory", "1")
        try:
            await register_worker(connection, report, [{"name": "m", "version": "1", "kinds": []}], ttl_s=60)
            await histogram_buffer.flush(connection, "m")
            assert [worker.id for worker in (await read_cluster_state(connection)).workers] == ["w1"]
            assert (await histograms.read_histograms(connection, ["m"]))["m"]["size:sum"] == 4
            with pytest.raises(QueueFull):
                await bench.submit()
        finally:
            client.config_set("maxmemory", "0")


async def test_a_claim_that_is_named_twice_is_one_suspect(bench: StoreBench) -> None:
    """It was once put into both suspect groups, so it was queued twice and never counted as alone."""
    (job_id,) = await bench.submit()
    (job,) = await bench.claim()
    assert (await recover_dead_worker(bench.store, "w1", [job.claim, job.claim])).suspects == 1
    with bench.server.client() as client:
        (line,) = client.keys("jitney:{s00}:queue:*")
        assert client.zrange(line, 0, -1) == [job_id.encode()]
