"""The notification of a job's end holds what a read would return; large results are only named."""

import asyncio

import pytest

from jobs.contract.job import Job, Outcome
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.store import codec
from tests.integration.jobs.conftest import StoreBench


async def told(
    bench: StoreBench, body: bytes, state: State = State.SUCCEEDED
) -> tuple[list[tuple[str, Job | None]], list[Job | None]]:
    """End a job that a gateway waits for; return the notification, and the result of a read."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    on_push = lambda push: heard.put_nowait(push[2]) if push[0] == b"message" else None  # noqa: E731 - one line says it
    wire = await bench.store.connection.subscribe([keys.gateway_channel("g")], on_push)
    job = bench.job(metadata=b'{"who":"\xc3\xa9"}')
    await bench.store.submit([job], "g")
    if state == State.CANCELED:
        await bench.store.cancel(job.id, "default")
    else:
        claimed = await bench.claim()
        await bench.store.finish("w1", [end._replace(state=state) for end in bench.succeed(claimed, body)])
    notice = codec.read_notification(await asyncio.wait_for(heard.get(), 5))
    wire.close()
    return notice, await bench.store.read([job.id])


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.EXPIRED, State.CANCELED])
async def test_a_small_job_is_in_its_notification_as_it_is_read(bench: StoreBench, state: State) -> None:
    notice, (job,) = await told(bench, '{"label":"é / \\"7\\""}'.encode(), state)
    assert job is not None
    assert job.state == state
    assert notice == [(job.id, job)]


async def test_a_large_job_is_only_named(bench: StoreBench) -> None:
    notice, (job,) = await told(bench, b'"%s"' % (b"x" * 5000))
    assert job is not None
    assert notice == [(job.id, None)]


async def test_the_jobs_of_a_batch_share_one_notification(bench: StoreBench) -> None:
    heard: list[bytes] = []
    wire = await bench.store.connection.subscribe([keys.gateway_channel("g")], lambda push: heard.append(push[2]))
    jobs = [bench.job() for _ in range(3)]
    await bench.store.submit(jobs, "g")
    await bench.store.finish("w1", bench.succeed(await bench.claim()))
    await wire.send([("PING",)])  # what was published before has been heard by now
    (notice,) = [one for one in heard if isinstance(one, bytes)]
    assert {job_id for job_id, _ in codec.read_notification(notice)} == {job.id for job in jobs}
    wire.close()


def test_an_outcome_has_its_batch_size_and_timings_in_ms() -> None:
    words = codec.outcome_args(Outcome("id", 1, State.SUCCEEDED, b"{}", 0.12345, 1e-9, 1234.5, 8))
    assert words == ("id", 1, "succeeded", "8 0.123,0.000,1234.500", b"{}")
