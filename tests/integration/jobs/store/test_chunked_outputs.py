"""Outputs in chunks: written before the outcome, fenced and expired with it, and counted like inputs."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from jobs.contract.errors import OverLimit, Refused
from jobs.contract.job import ClaimedJob, Job, Outcome
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore
from jobs.store.outputs import OutputWriter
from jobs.store.settings import StoreSettings
from jobs.tenants.limits import LimitOverride
from tests.integration.jobs.conftest import StoreBench
from tests.support.waiting import pass_time, wait_until

pytestmark = pytest.mark.anyio

CHUNK = 100_000
CHUNKS = [b'"' + b"x" * (CHUNK - 1), b"y" * CHUNK, b'z"']
WHOLE = b"".join(CHUNKS)


def chunked(job: ClaimedJob) -> Outcome:
    return Outcome(job.id, job.attempt, State.SUCCEEDED, b"", 1.0, 2.0, 3.0, 1, chunks=CHUNKS)


def writer(bench: StoreBench, lease_s: float = 20) -> OutputWriter:
    return OutputWriter(bench.store.connection, lease_s)


async def write(bench: StoreBench, job: ClaimedJob, is_needed: Callable[[], bool] = lambda: True) -> Outcome:
    outcome = await writer(bench).write(chunked(job), is_needed)
    assert outcome is not None
    return outcome


async def claimed_one(bench: StoreBench) -> ClaimedJob:
    await bench.submit()
    (job,) = await bench.claim()
    return job


async def finished_one(bench: StoreBench) -> Job:
    claimed = await claimed_one(bench)
    assert await bench.store.finish("w1", [await write(bench, claimed)]) == 0
    return await read(bench, claimed.id)


async def read(bench: StoreBench, job_id: str) -> Job:
    (job,) = await bench.store.read([job_id])
    assert job is not None
    return job


def chunk_keys(bench: StoreBench) -> dict[str, int]:
    """The chunks that exist, with their remaining ms."""
    with bench.server.client() as client:
        return {key.decode(): client.pttl(key) for key in client.scan_iter("jitney:*:output:*", count=1000)}


def count(bench: StoreBench, field: str = "outputs") -> int:
    with bench.server.client() as client:
        return int(client.hget("jitney:{s00}:open_totals", field) or 0)


async def test_an_output_is_written_in_chunks_and_read_back(bench: StoreBench) -> None:
    job = await finished_one(bench)
    assert (job.state, job.output, job.output_bytes) == (State.SUCCEEDED, None, len(WHOLE))
    assert (await bench.store.with_output(job)).output == WHOLE
    with bench.server.client() as client:
        record_ms = client.pttl(keys.job(job.id))
    assert chunk_keys(bench).keys() == {keys.output(job.id, 1, number) for number in range(3)}
    assert all(abs(ms - record_ms) < 1000 for ms in chunk_keys(bench).values())


async def test_the_waiting_gateway_is_told_and_the_outcome_may_be_sent_again(bench: StoreBench) -> None:
    (job_id,) = [one.id for one in await bench.take(bench.job(), gateway="g")]
    (claimed,) = await bench.claim()
    outcome = await write(bench, claimed)
    for _ in range(2):
        assert await bench.store.finish("w1", [outcome]) == 0
    assert (await bench.store.with_output(await read(bench, job_id))).output == WHOLE
    assert count(bench) == len(WHOLE)


async def test_chunks_whose_outcome_never_comes_expire(bench: StoreBench) -> None:
    """As after the kill of a worker between the two."""
    claimed = await claimed_one(bench)
    await writer(bench, 0.05).write(chunked(claimed), lambda: True)
    assert all(0 < ms <= 500 for ms in chunk_keys(bench).values())
    bench.end_lease(claimed.id)
    await bench.sweep()
    wait_until(lambda: not chunk_keys(bench), "the chunks are gone")
    (again,) = await bench.claim(worker="w2")
    assert await bench.store.finish("w2", [await write(bench, again)]) == 0
    assert chunk_keys(bench).keys() == {keys.output(again.id, 2, number) for number in range(3)}
    assert (await bench.store.with_output(await read(bench, again.id))).output == WHOLE


async def test_a_refused_outcome_leaves_no_chunk(bench: StoreBench) -> None:
    claimed = await claimed_one(bench)
    outcome = await write(bench, claimed)
    await bench.store.cancel(claimed.id, "default")
    assert await bench.store.finish("w1", [outcome]) == 1
    assert chunk_keys(bench) == {}
    assert await bench.state(claimed.id) == "canceled"
    assert count(bench) == 0


async def test_nothing_is_written_once_the_job_is_canceled(bench: StoreBench) -> None:
    claimed, asked = await claimed_one(bench), 0

    def is_needed() -> bool:
        nonlocal asked
        asked += 1
        return asked < 3

    assert await writer(bench).write(chunked(claimed), is_needed) is None
    assert chunk_keys(bench) == {}


async def test_a_full_server_fails_the_job_and_keeps_no_chunk(bench: StoreBench) -> None:
    claimed = await claimed_one(bench)
    with bench.server.client() as client:
        client.config_set("maxmemory", 1)
    try:
        outcome = await write(bench, claimed)
        assert await bench.store.finish("w1", [outcome]) == 0
    finally:
        with bench.server.client() as client:
            client.config_set("maxmemory", 0)
    job = await read(bench, claimed.id)
    assert (job.state, chunk_keys(bench)) == (State.FAILED, {})
    assert b'"output_not_stored"' in (job.error or b"")
    assert str(len(WHOLE)).encode() in (job.error or b"")


async def test_a_job_whose_chunks_were_lost_runs_again_but_not_for_ever(bench: StoreBench) -> None:
    claimed = await claimed_one(bench)
    for attempt in (1, 2, 3):
        outcome = await write(bench, claimed)
        with bench.server.client() as client:
            client.delete(keys.output(claimed.id, attempt, 1))
        assert await bench.store.finish("w1", [outcome]) == 0
        assert chunk_keys(bench) == {}
        assert await bench.state(claimed.id) == ("queued" if attempt < 3 else "failed")
        if attempt < 3:
            await pass_time(0.01)
            await bench.sweep()
            (claimed,) = await bench.claim()
    assert b'"output_not_stored"' in ((await read(bench, claimed.id)).error or b"")


async def test_an_output_that_lost_a_chunk_is_no_longer_kept(bench: StoreBench) -> None:
    job = await finished_one(bench)
    with bench.server.client() as client:
        client.delete(keys.output(job.id, 1, 2))
    with pytest.raises(Refused, match="results are kept"):
        await bench.store.with_output(job)
    with bench.server.client() as client:
        client.delete(keys.job(job.id))


async def finish_small(bench: StoreBench, store: JobStore, size: int, tenant: str) -> None:
    await bench.take(bench.job(tenant=tenant), store=store)
    (claimed,) = await bench.claim()
    await store.finish("w1", bench.succeed([claimed], b'"' + b"x" * (size - 2) + b'"'))


@pytest.fixture
async def limited(bench: StoreBench) -> AsyncIterator[JobStore]:
    """A store with results of half a second; one tenant has a quota of bytes."""
    settings = StoreSettings(
        redis_url=bench.server.url, result_ttl_s=0.5, tenants={"acme": LimitOverride(bytes=100_000)}
    )
    yield JobStore(settings, bench.store.connection)
    await pass_time(0.6)  # no record expires while the invariants are checked


async def test_outputs_count_in_the_quota_until_they_expire(bench: StoreBench, limited: JobStore) -> None:
    await finish_small(bench, limited, 60_000, "acme")
    await finish_small(bench, limited, 30_000, "acme")
    assert count(bench, "@acme:outputs") == 90_000
    job = bench.job(tenant="acme", input=b"x" * 20_000)
    (refused,) = await limited.submit([job])
    assert isinstance(refused, OverLimit)
    assert "90000 bytes of outputs are kept" in refused.message
    assert (refused.details["output_bytes"], refused.details["limit_bytes"]) == (90_000, 100_000)
    (other,) = await limited.submit([bench.job(tenant="other", input=b"x" * 20_000)])
    assert not isinstance(other, Exception)
    await pass_time(0.6)
    await bench.sweep()
    assert (count(bench), count(bench, "@acme:outputs")) == (0, 0)
    (accepted,) = await limited.submit([job])
    assert not isinstance(accepted, Exception)


async def test_small_outputs_count_only_for_tenants_with_a_quota(bench: StoreBench, limited: JobStore) -> None:
    for tenant, size in (("acme", 100), ("free", 100), ("free", 17_000)):
        await finish_small(bench, limited, size, tenant)
    assert [count(bench, f"@{tenant}:outputs") for tenant in ("acme", "free")] == [100, 17_000]
    assert count(bench) == 17_100


async def test_other_calls_do_not_wait_for_large_outputs(bench: StoreBench) -> None:
    """Sixty MB are written while leases are renewed; each renewal is answered soon."""
    claimed = await claimed_one(bench)
    outcome = chunked(claimed)._replace(chunks=[b"x" * (1 << 20)] * 60)
    writing, slowest = asyncio.ensure_future(writer(bench).write(outcome, lambda: True)), 0.0
    loop = asyncio.get_running_loop()
    while not writing.done():
        began = loop.time()
        assert await bench.store.extend("w1", [claimed]) == []
        slowest = max(slowest, loop.time() - began)
    written = await writing
    assert written is not None
    assert await bench.store.finish("w1", [written]) == 0
    assert slowest < 1
    assert len(chunk_keys(bench)) == 60


async def test_an_outage_shorter_than_a_lease_costs_no_output(bench: StoreBench) -> None:
    claimed = await claimed_one(bench)
    connection = RedisClient(bench.server.url, 0.2)
    with bench.server.client() as client:
        client.execute_command("CLIENT", "PAUSE", 600, "WRITE")
        outcome = await OutputWriter(connection, 20).write(chunked(claimed), lambda: True)
        client.execute_command("CLIENT", "UNPAUSE")
    await connection.aclose()
    assert outcome is not None
    assert await bench.store.finish("w1", [outcome]) == 0
