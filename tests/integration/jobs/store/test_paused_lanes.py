"""A claim of a model with one paused lane takes nothing of it, and lets submit hand nothing of it over."""

import pytest

from jobs.contract.job import ClaimedJob, Lane
from jobs.models import pauses
from jobs.models.pauses import Pause, PausedState, Pauses
from tests.integration.jobs.conftest import StoreBench
from tests.support import records

OTHER: dict[Lane, Lane] = {"interactive": "bulk", "bulk": "interactive"}
LANES: tuple[Lane, ...] = ("interactive", "bulk")


async def claim(bench: StoreBench, paused_lane: Lane, want: int = 8) -> list[ClaimedJob]:
    return (await bench.store.claim("m", "1", "w1", want, paused_lane=paused_lane)).jobs


@pytest.mark.parametrize("lane", LANES)
async def test_a_claim_takes_nothing_of_a_paused_lane(bench: StoreBench, lane: Lane) -> None:
    paused, other = await bench.submit(3, lane=lane), await bench.submit(3, lane=OTHER[lane])
    assert {job.id for job in await claim(bench, lane)} == set(other)
    assert await claim(bench, lane) == []
    assert {await bench.state(job_id) for job_id in paused} == {"queued"}
    assert {job.id for job in await bench.claim(8)} == set(paused)


@pytest.mark.parametrize("lane", LANES)
async def test_free_slots_take_nothing_of_a_paused_lane(bench: StoreBench, lane: Lane) -> None:
    with bench.subscribe_worker("w1"):
        assert await claim(bench, lane) == []
        (job_id,) = await bench.submit(lane=lane)
        assert await bench.state(job_id) == "queued"
        (other,) = await bench.submit(lane=OTHER[lane])
        # While lane interactive is paused the worker looks for bulk jobs by itself.
        assert await bench.state(other) == ("running" if lane == "bulk" else "queued")


async def test_weights_and_limits_hold_beside_a_paused_lane(bench: StoreBench) -> None:
    mine = await bench.submit(4, tenant="acme", lane="bulk")
    await bench.submit(4, tenant="acme")
    assert {job.id for job in await claim(bench, "interactive", 2)} < set(mine)
    with bench.server.client() as client:
        assert {records.read(client, job_id)["state"] for job_id in mine} == {"queued", "running"}


async def test_pauses_are_stored_read_and_removed(bench: StoreBench) -> None:
    connection, changes = bench.store.connection, list[PausedState]()
    copy = Pauses(connection, lambda: changes.append(copy.state))
    await copy.refresh()
    assert changes == []
    await pauses.pause_queue(connection, "m", LANES, "refuse", "key1")
    await pauses.pause_queue(connection, "m", ["bulk"], "accept", "key2")
    await pauses.pause_worker(connection, "w1", "", ["w1"])
    await copy.refresh()
    assert copy.state.lanes("m") == [*LANES]
    assert (copy.state.queues["m", "bulk"].submits, copy.state.queues["m", "bulk"].by) == ("accept", "key2")
    assert set(copy.state.workers) == {"w1"}
    refusal = copy.refusal("m", "interactive")
    assert refusal is not None
    assert (refusal.code, refusal.status, refusal.details["retry_after_s"]) == ("queue_paused", 503, 30)
    assert (copy.refusal("m", "bulk"), copy.refusal("n", "interactive")) == (None, None)
    await pauses.resume_queue(connection, "m", ["interactive"])
    await pauses.resume_worker(connection, "w1")
    await copy.refresh()
    assert (copy.state.lanes("m"), copy.state.workers) == (["bulk"], {})
    assert len(changes) == 2
    await pauses.resume_queue(connection, "m", LANES)


async def test_an_unreadable_pause_is_ignored_and_an_old_one_of_a_worker_that_is_gone_is_removed(
    bench: StoreBench,
) -> None:
    connection = bench.store.connection
    with bench.server.client() as client:
        client.hset("jitney:pauses", "queue m", b"{}")
        client.hset("jitney:pauses", "queue m bulk", b"[")
        client.hset("jitney:pauses", "worker gone", b'{"submits":"accept","since_s":1,"by":""}')
        client.hset("jitney:pauses", "worker old", b'{"submits":"accept","since_s":1,"by":""}')
    assert await pauses.read_pauses(connection) == PausedState(
        {}, {"gone": Pause("accept", 1, ""), "old": Pause("accept", 1, "")}
    )
    await pauses.pause_worker(connection, "w1", "", ["w1", "old"])
    assert set((await pauses.read_pauses(connection)).workers) == {"old", "w1"}
    with bench.server.client() as client:
        client.delete("jitney:pauses")
