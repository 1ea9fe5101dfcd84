"""The store's contract, on every supported server."""

import pytest

from jobs.contract.errors import JitneyError, QueueFull, Refused, StoreUnavailable
from jobs.contract.job import RECORD_VERSION, Accepted
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore
from jobs.store.raw_record import read_record
from jobs.store.settings import StoreSettings
from tests.integration.jobs.conftest import StoreBench
from tests.support import records
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


async def test_a_job_goes_from_submit_to_success(bench: StoreBench) -> None:
    (job_id,) = await bench.submit(input=b"\x00\xffraw", metadata=b'{"k":"v"}')
    (claimed,) = await bench.claim()
    assert (claimed.id, claimed.attempt, claimed.kind, claimed.input) == (job_id, 1, "raw", b"\x00\xffraw")
    assert await bench.store.finish("w1", bench.succeed([claimed])) == 0
    (job,) = await bench.store.read([job_id])
    assert job is not None
    assert (job.state, job.output, job.error, job.batch_size) == (State.SUCCEEDED, b'{"a":1}', None, 1)
    assert job.metadata == b'{"k":"v"}'
    assert job.created_us <= job.started_us <= job.finished_us  # type: ignore[operator]


async def test_queues_are_first_come_first_served(bench: StoreBench) -> None:
    ids = await bench.submit(5) + await bench.submit(5)
    assert [job.id for job in await bench.claim(7)] == ids[:7]
    assert [job.id for job in await bench.claim(7)] == ids[7:]
    assert await bench.claim(7) == []


async def test_a_claim_never_takes_more_than_it_wants(bench: StoreBench) -> None:
    await bench.submit(10, tenant="a")
    await bench.submit(10, tenant="b", lane="bulk")
    assert [len(await bench.claim(6)) for _ in range(5)] == [6, 6, 6, 2, 0]


async def test_tenants_take_turns(bench: StoreBench) -> None:
    await bench.submit(20, tenant="many")
    (late,) = await bench.submit(tenant="few")
    assert late in [job.id for job in await bench.claim(4)]


async def test_bulk_fills_empty_rows_and_never_starves(bench: StoreBench) -> None:
    bulk = set(await bench.submit(40, lane="bulk"))
    await bench.submit(40)
    taken = [job.id in bulk for _ in range(10) for job in await bench.claim(4)]
    assert sum(taken) == 5  # one row in eight while both wait
    rest = [job.id in bulk for job in await bench.claim(40)]
    assert (len(rest), sum(rest)) == (40, 35)  # and every row that is left


async def test_bulk_can_be_limited_to_a_number_of_rows(bench: StoreBench) -> None:
    bulk = set(await bench.submit(100, lane="bulk"))
    await bench.submit(5)
    for most, interactive in ((4, 5), (0, 0), (4, 0)):
        claim = await bench.store.claim("m", "1", "w1", 32, max_bulk=most)
        assert (claim.bulk, claim.interactive, claim.held) == (most, interactive, True)
        assert sum(job.id in bulk for job in claim.jobs) == most
    full = await bench.store.claim("m", "1", "w1", 1, max_bulk=4)
    assert (full.bulk, full.held) == (1, False)  # it lacked rows
    claim = await bench.store.claim("m", "1", "w1", 100)
    assert (claim.bulk, claim.interactive, claim.held) == (91, 0, False)
    assert not (await bench.store.claim("m", "1", "w1", 32, max_bulk=4)).held


async def test_the_bulk_limit_counts_rows_of_all_shards_together(bench: StoreBench) -> None:
    store = JobStore(StoreSettings(redis_url=bench.server.url, shards=4), bench.store.connection)
    await bench.take(*(bench.job(lane="bulk", shard=shard) for shard in range(4) for _ in range(10)), store=store)
    claim = await store.claim("m", "1", "w1", 32, max_bulk=6)
    assert (claim.bulk, len(claim.jobs), claim.held) == (6, 6, True)


async def test_an_interactive_job_does_not_wait_behind_bulk(bench: StoreBench) -> None:
    await bench.submit(100, lane="bulk")
    (hurried,) = await bench.submit()
    assert hurried in [job.id for job in await bench.claim(2)]


async def test_versions_and_models_have_their_own_queues(bench: StoreBench) -> None:
    await bench.submit(version="2")
    await bench.submit(model="other")
    assert await bench.claim() == []
    assert await bench.store.depth("m", "2") == {"interactive": 1, "bulk": 0, "suspect": 0}


async def test_submitting_again_changes_nothing(bench: StoreBench) -> None:
    job = bench.job()
    first, second = [(await bench.take(job))[0] for _ in range(2)]
    assert first == second
    assert len(await bench.claim()) == 1
    assert (await bench.store.counts())["submitted:m"] == 1


async def test_an_id_twice_in_one_submit_is_one_job(bench: StoreBench) -> None:
    """Replays of a dead letter have derived ids, and may arrive together."""
    job = bench.job(input=b"first")
    again, other = job._replace(input=b"again"), bench.job()
    first, second, third = await bench.take(job, again, other)
    assert (first.id, second.id, third.id) == (job.id, job.id, other.id)
    assert {claimed.id: claimed.input for claimed in await bench.claim()} == {job.id: b"first", other.id: b"in"}


async def test_jobs_of_one_submit_keep_what_is_their_own(bench: StoreBench) -> None:
    """Jobs with the same description share it; each change of it, and the way back, counts."""
    exact = b'{"encoding":"base64"}'
    jobs = [
        bench.job(parameters=parameters, kind=kind, rows=rows, metadata=metadata)
        for parameters, kind, rows, metadata in [
            (b"{}", "raw", 0, b"{}"),
            (b"{}", "raw", 0, b"{}"),
            (exact, "raw", 0, b"{}"),
            (exact, "raw", 2, b"{}"),
            (b'{"top_k":1}', "image", 0, b'{"a":"b"}'),
            (b"{}", "raw", 0, b"{}"),
        ]
    ]
    await bench.take(*jobs)
    claimed = {job.id: job for job in await bench.claim()}
    found = [(claimed[job.id].parameters, claimed[job.id].kind, claimed[job.id].rows) for job in jobs]
    assert found == [(job.parameters, job.kind, job.rows) for job in jobs]
    read = await bench.store.read([job.id for job in jobs])
    assert [job.metadata for job in read if job] == [job.metadata for job in jobs]
    flat = await read_record(bench.store.connection, jobs[3].id)
    assert (flat["kind"], flat["parameters"], flat["rows"]) == ("raw", exact.decode(), "2")


async def test_the_same_key_gives_the_same_job(bench: StoreBench) -> None:
    (first,) = await bench.take(bench.job(idempotency_key="k", digest="d"))
    (again,) = await bench.take(bench.job(idempotency_key="k", digest="d"))
    assert (again.id, again.replayed) == (first.id, True)
    with pytest.raises(Refused, match="another request"):
        await bench.take(bench.job(idempotency_key="k", digest="other"))
    (foreign,) = await bench.take(bench.job(idempotency_key="k", digest="d", tenant="b"))
    assert foreign.id != first.id


async def test_submit_results_keep_the_order_of_the_jobs_on_any_shards(bench: StoreBench) -> None:
    settings = StoreSettings(redis_url=bench.server.url, shards=2, max_jobs=4)
    store = JobStore(settings, bench.store.connection)
    (known,) = await bench.take(bench.job(shard=1, idempotency_key="k", digest="d"), store=store)
    jobs = [bench.job(shard=nth % 2) for nth in range(6)]
    jobs[1:1] = [bench.job(shard=1, idempotency_key="k", digest=digest) for digest in ("d", "other")]
    verdicts = await store.submit(jobs)
    told = [one.code if isinstance(one, JitneyError) else one.id for one in verdicts]
    new = [job.id for job in jobs]
    assert told == [new[0], known.id, "idempotency_mismatch", new[3], new[4], "queue_full", "queue_full", "queue_full"]


async def test_thousands_in_one_step_keep_their_order(bench: StoreBench) -> None:
    ids = await bench.submit(4500)
    assert [job.id for _ in range(10) for job in await bench.claim(450)] == ids
    assert (await bench.store.counts())["submitted:m"] == 4500


async def test_only_the_lease_holder_can_finish_a_job(bench: StoreBench) -> None:
    await bench.submit()
    (claimed,) = await bench.claim()
    assert await bench.store.finish("w2", bench.succeed([claimed])) == 1
    assert await bench.store.finish("w1", bench.succeed([claimed._replace(attempt=2)])) == 1
    assert await bench.state(claimed.id) == "running"


async def test_finishing_again_changes_nothing(bench: StoreBench) -> None:
    await bench.submit()
    claimed = await bench.claim()
    assert [await bench.store.finish("w1", bench.succeed(claimed)) for _ in range(2)] == [0, 0]
    assert (await bench.store.counts())["finished:m:succeeded"] == 1


async def test_jobs_of_a_lost_worker_return_to_their_queue_position(bench: StoreBench) -> None:
    ids = await bench.submit(3)
    (claimed,) = await bench.claim(1)
    bench.end_lease(claimed.id)
    assert (await bench.sweep()).reclaimed == 1
    assert [job.id for job in await bench.claim(worker="w2")] == ids
    assert await bench.store.finish("w1", bench.succeed([claimed])) == 1  # the lost worker comes back too late
    assert await bench.store.extend("w1", [claimed]) == [claimed]


async def test_jobs_of_a_live_worker_are_not_reclaimed(bench: StoreBench) -> None:
    await bench.submit()
    claimed = await bench.claim()
    bench.end_lease(claimed[0].id)
    assert await bench.store.extend("w1", claimed) == []
    assert (await bench.sweep()).reclaimed == 0


async def test_a_release_does_not_count_as_a_loss(bench: StoreBench) -> None:
    (job_id,) = await bench.submit()
    for _ in range(4):
        await bench.store.release("w1", await bench.claim())
    await bench.claim()
    bench.end_lease(job_id)
    assert (await bench.sweep()).reclaimed == 1


async def test_submitting_a_final_job_again_returns_it_without_a_watch(bench: StoreBench) -> None:
    (job_id,) = await bench.submit(idempotency_key="k", digest="d")
    await bench.store.finish("w1", bench.succeed(await bench.claim()))
    (again,) = await bench.take(bench.job(idempotency_key="k", digest="d"), gateway="gateway")
    assert again.id == job_id
    assert (await bench.store.wait(job_id, "gateway")) is not None


async def test_a_job_that_loses_every_worker_fails(bench: StoreBench) -> None:
    (job_id,) = await bench.submit()
    for lost in range(3):
        await (bench.claim_suspects("w1") if lost == 2 else bench.claim())
        bench.end_lease(job_id)
        await bench.sweep()
    (job,) = await bench.store.read([job_id])
    assert job is not None
    assert (job.state, job.attempts) == (State.FAILED, 3)
    assert b"too_many_attempts" in (job.error or b"")


async def test_released_jobs_are_claimed_again(bench: StoreBench) -> None:
    ids = await bench.submit(2)
    claimed = await bench.claim()
    assert await bench.store.release("w1", claimed) == 2
    assert await bench.store.release("w1", claimed) == 0
    assert [job.id for job in await bench.claim(worker="w2")] == ids


async def test_a_canceled_job_never_runs(bench: StoreBench) -> None:
    first, second = await bench.submit(2)
    await bench.store.cancel(first, "default")
    assert [job.id for job in await bench.claim()] == [second]
    with pytest.raises(Refused, match="has ended"):
        await bench.store.cancel(first, "default")


async def test_a_canceled_running_jobs_result_is_refused(bench: StoreBench) -> None:
    await bench.submit()
    claimed = await bench.claim()
    await bench.store.cancel(claimed[0].id, "default")
    assert await bench.store.finish("w1", bench.succeed(claimed)) == 1
    assert await bench.state(claimed[0].id) == "canceled"


async def test_canceling_a_foreign_job_is_answered_as_for_an_unknown_one(bench: StoreBench) -> None:
    (job_id,) = await bench.submit()
    for other in (job_id, "00" + "0" * 32):
        with pytest.raises(Refused) as refused:
            await bench.store.cancel(other, "somebody else")
        assert refused.value.code == "job_not_found"
    assert await bench.state(job_id) == "queued"


async def test_overdue_jobs_expire_while_queued_or_running(bench: StoreBench) -> None:
    running, waiting = await bench.submit(2)
    await bench.claim(1)
    for job_id in (running, waiting):
        bench.pass_deadline(job_id)
    assert (await bench.sweep()).expired == 2
    assert [await bench.state(job_id) for job_id in (running, waiting)] == ["expired", "expired"]
    assert await bench.claim() == []


async def test_a_claim_drops_overdue_jobs(bench: StoreBench) -> None:
    (job_id,) = await bench.submit()
    with bench.server.client() as client:
        records.change(client, job_id, deadline_ms="1")
    assert await bench.claim() == []
    assert await bench.state(job_id) == "expired"


async def test_positions_count_from_one_and_jobs_are_listed_newest_first(bench: StoreBench) -> None:
    ids = await bench.submit(3)
    jobs, _ = await bench.store.newest("default", 1 << 60, 10)
    assert [job.id for job in jobs] == ids[::-1]
    assert [await bench.store.position(job) for job in jobs] == [3, 2, 1]
    page, before_us = await bench.store.newest("default", jobs[0].created_us, 1)
    assert ([job.id for job in page], before_us) == ([ids[1]], jobs[1].created_us)
    assert await bench.store.newest("nobody", 1 << 60, 10) == ([], None)


async def test_purged_jobs_do_not_hide_others(bench: StoreBench) -> None:
    (oldest,) = await bench.submit(lane="bulk")
    purged = await bench.submit(5)
    with bench.server.client() as client:
        claimed = await bench.claim(6)
        await bench.store.finish("w1", bench.succeed([job for job in claimed if job.id in purged]))
        client.delete(*(f"jitney:{{s00}}:job:{job_id}" for job_id in purged))
    jobs, _ = await bench.store.newest("default", 1 << 60, 2)
    assert [job.id for job in jobs] == [oldest]


async def test_shards_are_emptied_by_one_claim(bench: StoreBench) -> None:
    store = JobStore(StoreSettings(redis_url=bench.server.url, shards=3), bench.store.connection)
    await bench.take(*(bench.job(shard=shard) for shard in (0, 1, 2, 1)), store=store)
    claimed = (await store.claim("m", "1", "w1", 10)).jobs
    assert sorted(job.id[:2] for job in claimed) == ["00", "01", "01", "02"]
    assert await store.finish("w1", bench.succeed(claimed)) == 0
    assert (await store.counts())["finished:m:succeeded"] == 4


async def test_records_of_an_unknown_version_are_refused(bench: StoreBench) -> None:
    (job_id,) = await bench.submit()
    with bench.server.client() as client:
        records.change(client, job_id, v="999")
    assert await bench.state(job_id) == "gone"


@pytest.mark.parametrize(
    "change",
    [
        {"v": "0"},
        {"attempts": "x"},
        {"deadline_ms": "soon"},
        {"kind": ""},
        {"body": None},
    ],
)
async def test_unreadable_records_end_and_do_not_affect_others(
    bench: StoreBench, change: dict[str, str | None]
) -> None:
    first, second = await bench.submit(2)
    with bench.server.client() as client:
        for field, value in change.items():
            if value is None:
                client.hdel(keys.job(first), field)
            else:
                records.change(client, first, **{field: value})
    assert [job.id for job in await bench.claim()] == [second]
    with bench.server.client() as client:
        assert records.read(client, first)["state"] == "failed"
    assert len(await bench.store.read([first, second])) == 2
    assert second in [job.id for job in (await bench.store.newest("default", 1 << 60, 10))[0]]


async def test_jobs_of_a_later_release_stay_for_its_workers(bench: StoreBench) -> None:
    first, second = await bench.submit(2)
    with bench.server.client() as client:
        records.change(client, first, v=str(int(RECORD_VERSION) + 1))
        claim = await bench.store.claim("m", "1", "w1", 32)
        assert ([job.id for job in claim.jobs], claim.more) == ([second], False)
        records.change(client, first, v=RECORD_VERSION)
    assert [job.id for job in await bench.claim()] == [first]


async def test_a_claim_over_a_heap_of_overdue_jobs_ends_soon_and_a_sweep_ends_them_all(bench: StoreBench) -> None:
    for _ in range(4):
        await bench.submit(500, deadline_ms=1)
    (late,) = await bench.submit()
    assert await bench.claim(1) == []
    assert (await bench.store.depth("m", "1"))["interactive"] > 1500
    assert (await bench.sweep()).expired > 1500
    assert [job.id for job in await bench.claim(1)] == [late]


async def test_large_inputs_are_claimed_a_few_at_a_time(bench: StoreBench) -> None:
    await bench.submit(5, input=b"x" * (7 << 20))
    claims = [await bench.store.claim("m", "1", "w1", 32) for _ in range(4)]
    assert [(len(claim.jobs), claim.more) for claim in claims] == [(2, True), (2, True), (1, False), (0, False)]


@pytest.mark.parametrize("place", ["timers", "queue:m:1:interactive:default"])
async def test_an_entry_that_is_no_job_stops_nothing(bench: StoreBench, place: str) -> None:
    with bench.server.client() as client:
        client.set("jitney:{s00}:job:00" + "e" * 32, "junk", ex=60)
        client.zadd(f"jitney:{{s00}}:{place}", {"00" + "e" * 32: 1})
        if place.startswith("queue"):
            client.rpush("jitney:{s00}:tenant_rotation:m:1:interactive", "default")
        lost, overdue = await bench.submit(2)
        claimed = await bench.claim()
        assert {job.id for job in claimed} == {lost, overdue}
        bench.end_lease(lost)
        bench.pass_deadline(overdue)
        swept = await bench.sweep()
        assert (swept.reclaimed, swept.expired) == (1, 1)
        client.delete("jitney:{s00}:job:00" + "e" * 32)


async def test_a_full_server_refuses_new_jobs_and_finishes_old_ones(bench: StoreBench) -> None:
    await bench.submit(2)
    claimed = await bench.claim(1)
    with bench.server.client() as client:
        client.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(QueueFull, match="out of memory"):
                await bench.submit()
            assert await bench.store.finish("w1", bench.succeed(claimed)) == 0
            assert len(await bench.claim()) == 1
        finally:
            client.config_set("maxmemory", "0")


async def test_a_handwritten_record_ends_and_does_not_affect_others(bench: StoreBench) -> None:
    ghost = "00" + "f" * 32
    with bench.server.client() as client:
        client.hset(f"jitney:{{s00}}:job:{ghost}", mapping={"state": "queued 0 - - -", "model": "m"})
        client.zadd("jitney:{s00}:queue:m:1:interactive:default", {ghost: 1})
        client.rpush("jitney:{s00}:tenant_rotation:m:1:interactive", "default")
    good = await bench.submit(3)
    assert [job.id for job in await bench.claim()] == good
    with bench.server.client() as client:
        assert records.read(client, ghost)["state"] == "failed"


async def test_an_empty_input_is_valid(bench: StoreBench) -> None:
    await bench.submit(input=b"")
    assert await bench.store.finish("w1", bench.succeed(await bench.claim())) == 0


@pytest.mark.parametrize("junk", ["soon", "1e300"])
async def test_a_junk_clock_value_stops_nothing(bench: StoreBench, junk: str) -> None:
    with bench.server.client() as client:
        client.hset("jitney:{s00}:open_totals", "sequence", junk)
        await bench.submit()
    assert len(await bench.submit(2)) == 2


@pytest.mark.parametrize("caps", [{"max_jobs": 10}, {"max_input_bytes": 100}])
async def test_a_full_queue_refuses_and_accepts_again_when_jobs_end(bench: StoreBench, caps: dict[str, int]) -> None:
    settings = StoreSettings(redis_url=bench.server.url, **caps)  # type: ignore[arg-type]
    store = JobStore(settings, bench.store.connection)
    await bench.take(*(bench.job(lane="bulk", input=b"0123456789") for _ in range(9)), store=store)
    with pytest.raises(QueueFull, match="9 jobs of model m with 90 bytes"):
        await bench.take(bench.job(lane="bulk", input=b"0123456789"), store=store)
    await bench.take(bench.job(input=b"0123456789"), bench.job(model="other", input=b"0123456789"), store=store)
    with pytest.raises(QueueFull):
        await bench.take(bench.job(input=b"0123456789"), store=store)
    claimed = await bench.claim(2)
    await store.finish("w1", bench.succeed(claimed))
    await bench.take(bench.job(input=b"0123456789"), store=store)


async def test_an_unreachable_server_is_one_clear_error() -> None:
    connection = RedisClient("unix:///nowhere/at/all", 0.5)
    with pytest.raises(StoreUnavailable, match="cannot reach Redis"):
        await connection.command("PING")
    await connection.aclose()


async def test_scripts_survive_a_server_that_forgot_them(bench: StoreBench) -> None:
    await bench.submit()
    with bench.server.client() as client:
        client.script_flush()
    assert len(await bench.claim()) == 1


def test_the_cluster_server_really_checks_slots() -> None:
    server = Server("cluster")
    with server.client() as client, pytest.raises(Exception, match=r"CROSSSLOT|same slot"):
        client.mget("a", "b")
    server.close()


async def test_junk_in_place_of_a_queue_affects_only_its_own_jobs(bench: StoreBench) -> None:
    with bench.server.client() as client:
        client.set("jitney:{s00}:queue:junk:1:interactive:default", "no line")
        mine, other = bench.job(), bench.job(model="junk", idempotency_key="k")
        accepted, refused = await bench.store.submit([mine, other])
        client.delete("jitney:{s00}:queue:junk:1:interactive:default")
    assert isinstance(accepted, Accepted)
    assert isinstance(refused, StoreUnavailable)
    assert "the queue of model junk is of another type" in refused.message
    assert [job.id for job in await bench.claim()] == [mine.id]
    assert await bench.store.read([other.id]) == [None]
    (again,) = await bench.store.submit([other])  # its key was not used up
    assert again == Accepted(other.id, again.created_us, replayed=False)  # type: ignore[union-attr]
