"""The sweep on a real server: the jobs of a live worker stay with it through every outage."""

import asyncio
import logging
import signal
import time
from contextlib import suppress

import pytest

from api.gateway import maintenance
from api.gateway.lease_grace import LeaseGracePeriod
from jobs.contract.errors import StoreUnavailable
from jobs.contract.ids import new_job_id
from jobs.contract.job import ClaimedJob, Submission
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore
from jobs.store.maintenance import SweepResult
from jobs.store.settings import StoreSettings
from tests.support.servers import Server
from tests.support.waiting import pass_time, wait_until_async

pytestmark = pytest.mark.anyio

LEASE_S, SWEEP_S = 1.0, 0.1


@pytest.fixture
def store(own: tuple[Server, RedisClient]) -> JobStore:
    server, connection = own
    return JobStore(StoreSettings(redis_url=server.url, lease_s=LEASE_S), connection)


async def claimed(store: JobStore, worker: str) -> list[ClaimedJob]:
    await store.submit([Submission(id=new_job_id(0), model="m", version="1", kind="raw", input=b"in")])
    return (await store.claim("m", "1", worker, 1)).jobs


@pytest.mark.parametrize("timeout_s", [0.4, 5], ids=["it was given up", "its answer was waited for"])
async def test_a_live_worker_keeps_its_job_after_the_server_froze_longer_than_the_lease(
    own: tuple[Server, RedisClient], timeout_s: float
) -> None:
    server, _ = own
    settings = StoreSettings(redis_url=server.url, lease_s=LEASE_S)
    connection = RedisClient(server.url, timeout_s)
    store, patience = JobStore(settings, connection), LeaseGracePeriod(SWEEP_S, LEASE_S)
    await maintenance.sweep_once(store, patience)
    await pass_time(LEASE_S / 4)
    await maintenance.sweep_once(store, patience)
    alive, dead = await claimed(store, "alive"), await claimed(store, "dead")
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    sweep = asyncio.create_task(maintenance.sweep_once(store, patience))
    await pass_time(1.5 * LEASE_S)
    server.process.send_signal(signal.SIGCONT)
    with suppress(StoreUnavailable):
        await sweep
    await maintenance.sweep_once(store, patience)
    assert await store.extend("alive", alive) == []

    async def is_taken_back() -> bool:
        await store.extend("alive", alive)
        await maintenance.sweep_once(store, patience)
        (job,) = await store.read([dead[0].id])
        return job is not None and job.state == "queued"

    await wait_until_async(is_taken_back, "the dead worker's job is taken back")
    assert await store.extend("alive", alive) == []
    await connection.aclose()


async def test_a_jump_of_the_clock_is_logged_once(store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    patience = LeaseGracePeriod(SWEEP_S, LEASE_S)
    with caplog.at_level(logging.INFO, "jitney.api"):
        await maintenance.sweep_once(store, patience)
        patience.record_sweep(1_700_000_000_000, time.monotonic())  # as if its clock had stood there
        await maintenance.sweep_once(store, patience)
        await maintenance.sweep_once(store, patience)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no job is reclaimed for 0.2 s" in caplog.text


def test_the_log_names_the_swept_jobs_in_words() -> None:
    assert maintenance.describe_sweep(SweepResult(1, 0, 0, 0, 0, 0)) == ""
    assert maintenance.describe_sweep(SweepResult(1, 2, 0, 1, 0, 0)) == "2 reclaimed from lost workers, 1 expired"
