"""Scripts and reads process a bounded amount of stored data, and the next call continues.

The row: `GET /v1/jobs?limit=1` over a thousand expired results recursed until the gateway died, and a claim lost all
tenants of a ring of more than 8,000 whose jobs might not run, for Lua's `unpack` has a limit.
"""

from typing import Any

import pytest

from jobs.contract.errors import JitneyError
from jobs.contract.job import Accepted, ClaimedJob, Outcome
from jobs.contract.lifecycle import State
from jobs.models import worker_registry
from jobs.models.worker_registry import WorkerReport
from jobs.store import codec, dead_letters, maintenance, queue_states, record_pages
from jobs.store.job_store import JobStore
from jobs.store.maintenance import recover_dead_worker
from jobs.store.settings import StoreSettings
from tests.integration.jobs.conftest import StoreBench
from tests.support import records

ROOT = "jitney:{s00}"
MANY_TENANTS = 8500  # more than Lua unpacks


def with_settings(bench: StoreBench, **settings: Any) -> JobStore:
    bench.store = JobStore(StoreSettings(redis_url=bench.server.url, **settings), bench.store.connection)
    return bench.store


def fail(claimed: list[ClaimedJob]) -> list[Outcome]:
    body = b'{"code":"inference_failed","message":"m","status":422}'
    return [Outcome(job.id, job.attempt, State.FAILED, body, dead=True) for job in claimed]


# ---- lists


async def test_a_list_of_expired_results_is_read_in_a_bounded_number_of_pages(bench: StoreBench) -> None:
    (oldest,) = await bench.submit()
    with bench.server.client() as client:
        gone = {f"00{nth:032x}": 1 << 51 for nth in range(2500)}
        client.zadd(f"{ROOT}:tenant_jobs:default", {name: at + nth for nth, (name, at) in enumerate(gone.items())})
    found: list[str] = []
    before_us: int | None = 1 << 60
    pages = 0
    while before_us is not None:
        jobs, before_us = await bench.store.newest("default", before_us, 1)
        found += [job.id for job in jobs]
        pages += 1
    assert found == [oldest]
    assert 2 < pages <= 2500 // record_pages.MAX_SCANNED + 3
    with bench.server.client() as client:
        assert client.zcard(f"{ROOT}:tenant_jobs:default") == 1


async def test_a_list_keeps_records_of_a_later_release(bench: StoreBench) -> None:
    (job_id,) = await bench.submit()
    with bench.server.client() as client:
        records.change(client, job_id, v="999")
        assert await bench.store.newest("default", 1 << 60, 10) == ([], None)
        assert client.zcard(f"{ROOT}:tenant_jobs:default") == 1


# ---- tenants of a ring


def many_that_may_not_run(bench: StoreBench) -> None:
    """Queue jobs of very many tenants that are at their running limit."""
    with bench.server.client() as client, client.pipeline() as pipe:
        for nth in range(MANY_TENANTS):
            pipe.rpush(f"{ROOT}:tenant_rotation:m:1:interactive", f"t{nth}")
            pipe.zadd(f"{ROOT}:queue:m:1:interactive:t{nth}", {f"00{nth:032x}": 1})
            pipe.hset(f"{ROOT}:open_totals", f"@t{nth}:running", 1)
        pipe.execute()


async def test_a_claim_over_very_many_tenants_that_may_not_run_loses_none(bench: StoreBench) -> None:
    with_settings(bench, tenant_running=1)
    many_that_may_not_run(bench)
    (job_id,) = await bench.submit(tenant="a")
    claims, claim = 1, await bench.store.claim("m", "1", "w1", 32)
    while claim.more and not claim.jobs:
        claims, claim = claims + 1, await bench.store.claim("m", "1", "w1", 32)
    assert [job.id for job in claim.jobs] == [job_id]
    assert claims > 10  # none of them looked at all tenants
    assert not (
        await bench.store.claim("m", "1", "w1", 32)
    ).more  # nobody else may run: there is no reason to come back
    assert await bench.store.depth("m", "1") == {"interactive": MANY_TENANTS, "bulk": 0, "suspect": 0}
    with bench.server.client() as client:
        assert client.zcard(f"{ROOT}:parked") == MANY_TENANTS
        client.flushall()  # these tenants have no jobs


async def test_a_parked_tenant_comes_back_when_it_may_run_more(bench: StoreBench) -> None:
    with_settings(bench, tenant_running=1)
    await bench.submit(3, tenant="a")
    await bench.submit(3, tenant="a", lane="bulk")
    assert len(await bench.claim()) == 1
    assert await bench.claim() == []
    with_settings(bench, tenant_running=4)
    with bench.server.client() as client:
        assert client.lrange(f"{ROOT}:tenant_rotation:m:1:interactive", 0, -1) == []
        client.zadd(f"{ROOT}:parked", {"a": 1})
    await bench.sweep()
    assert len(await bench.claim()) == 3


async def test_a_parked_tenant_comes_back_in_all_of_its_queues(bench: StoreBench) -> None:
    with_settings(bench, tenant_running=1)
    await bench.submit(tenant="a")
    await bench.submit(tenant="a", model="other")
    (first,) = await bench.claim()
    assert (await bench.store.claim("other", "1", "w1", 8)).jobs == []
    await bench.store.finish("w1", bench.succeed([first]))
    assert len((await bench.store.claim("other", "1", "w1", 8)).jobs) == 1


async def test_a_parked_tenant_whose_jobs_are_canceled_is_unparked(bench: StoreBench) -> None:
    with_settings(bench, tenant_running=1)
    await bench.submit(tenant="a")
    await bench.claim()
    (waiting,) = await bench.submit(tenant="a")
    assert await bench.claim() == []
    await bench.store.cancel(waiting, "a")
    with bench.server.client() as client:
        assert client.exists(f"{ROOT}:parked", f"{ROOT}:parked:a") == 0
    (again,) = await bench.submit(tenant="a")
    assert await bench.claim() == []
    assert await bench.state(again) == "queued"


async def test_waiting_jobs_of_many_tenants_are_counted_in_parts(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_states, "TENANTS_BATCH", 2)
    with_settings(bench, tenants='{"t0": {"running": 1}, "t1": {"running": 1}, "t2": {"running": 1}}')
    for nth in range(7):
        await bench.submit(3, tenant=f"t{nth}")
    await bench.submit(tenant="t5", lane="bulk")
    claimed = await bench.claim(8)
    waiting = await bench.store.depth("m", "1")
    assert (waiting["interactive"], waiting["bulk"]) == (22 - len(claimed) - waiting["bulk"], waiting["bulk"])
    assert (await bench.store.counts())["submitted:m"] == 22


# ---- gateways of a job, jobs of a worker, versions of an announcement


async def test_the_number_of_gateways_notified_of_a_job_is_bounded(bench: StoreBench) -> None:
    """Each restart of a gateway adds a listener to the awaited jobs."""
    (job_id,) = await bench.submit()
    for nth in range(100):
        await bench.store.wait(job_id, f"gateway{nth}")
        await bench.store.run("job/read_and_follow", bench.store.roots[0], f"gateway{nth}", job_id)
    with bench.server.client() as client:
        noted = records.read(client, job_id)["watchers"].split()
        assert noted == [f"gateway{nth}+" for nth in range(36, 100)]


async def test_a_dead_worker_is_recovered_in_parts(bench: StoreBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "RECOVER_LIMIT", 3)
    await bench.submit(20)
    for _ in range(5):
        await bench.claim(2, "dead")
        await bench.claim(2, "alive")
    suspect = (await bench.store.claim("m", "1", "dead", 1)).jobs
    assert suspect == []
    assert await recover_dead_worker(bench.store, "dead", []) == (10, 0, 0)
    assert len(await bench.claim(20, "w3")) == 10


async def test_more_versions_than_lua_unpacks_are_announced(bench: StoreBench) -> None:
    cards = [{"name": f"m{nth}", "version": "1", "kinds": []} for nth in range(4500)]
    await worker_registry.register_worker(bench.store.connection, WorkerReport("w1", 1, "here"), cards, 60)
    assert len((await worker_registry.read_cluster_state(bench.store.connection)).cards) == 4500


# ---- dead letters


async def test_old_dead_letters_are_removed_in_parts(bench: StoreBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "SWEEP_LIMIT", 3)
    ids = await bench.submit(10)
    await bench.store.finish("w1", fail(await bench.claim()))
    with bench.server.client() as client:
        for key in ("dead_letters", "tenant_dead_letters:default"):
            client.zadd(f"{ROOT}:{key}", {f"{job_id} 2 default": 1 for job_id in ids})
    assert (await bench.sweep()).purged == 10
    assert await dead_letters.count_dead_letters(bench.store) == (0, 0)


async def test_a_lowered_bound_is_enforced_in_parts(bench: StoreBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "SWEEP_LIMIT", 50)
    await bench.submit(202)
    await bench.store.finish("w1", fail(await bench.claim(201)))
    with_settings(bench, dead_letters=5)
    await bench.store.finish("w1", fail(await bench.claim(1)))
    assert (await dead_letters.count_dead_letters(bench.store))[0] == 102  # one letter pushes out so many at most
    assert (await bench.sweep()).purged == 97
    assert (await dead_letters.count_dead_letters(bench.store))[0] == 5


async def test_a_wrong_sum_of_dead_letters_does_not_stop_jobs_from_ending(bench: StoreBench) -> None:
    await bench.submit(2)
    with bench.server.client() as client:
        client.set(f"{ROOT}:dead_letter_bytes", 1 << 40)
    await bench.store.finish("w1", fail(await bench.claim(1)))
    await bench.store.finish("w1", fail(await bench.claim(1)))
    assert (await dead_letters.count_dead_letters(bench.store))[0] == 1


async def test_a_named_dead_letter_is_purged_and_a_job_that_is_none_stays(bench: StoreBench) -> None:
    letter, running = await bench.submit(2)
    first, _ = await bench.claim()
    await bench.store.finish("w1", fail([first]))
    assert await dead_letters.purge_dead_letters(bench.store, [letter, running, "00" + "0" * 32]) == 1
    with bench.server.client() as client:
        assert client.hget(f"{ROOT}:job:{running}", "body") == b"in"


def test_the_message_of_an_error_is_bounded() -> None:
    assert len(codec.error_body(JitneyError("invalid_input", "x" * 1_000_000))) < 5000


# ---- submits


@pytest.mark.parametrize(("jobs", "size", "scripts"), [(100, 10, 1), (250, 10, 3), (90, 30_000, 3)])
async def test_a_submit_of_many_jobs_is_cut_into_scripts_that_others_can_come_between(
    bench: StoreBench, jobs: int, size: int, scripts: int
) -> None:
    """A script submits at most 100 jobs or 1 MiB. All of them are accepted in the order of the request."""
    await bench.submit()  # the script is known from then on
    many = [bench.job(input=b"x" * size) for _ in range(jobs)]
    with bench.server.client() as client:
        client.config_resetstat()
        results = await bench.store.submit(many)
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == scripts
    accepted = [result for result in results if isinstance(result, Accepted)]
    assert [result.id for result in accepted] == [job.id for job in many]
    times = [result.created_us for result in accepted]
    assert times == sorted(set(times))
