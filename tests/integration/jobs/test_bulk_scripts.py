"""The atomic steps of a bulk job: repeated ones count once, and a stale process writes nothing."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from jobs.bulk import checkpoints, files, records
from jobs.bulk.checkpoints import LeaseLost, LineFailure, ResultPart
from jobs.bulk.files import File
from jobs.bulk.records import Bulk, BulkRequest
from jobs.bulk.settings import BulkSettings
from jobs.contract.errors import OverLimit, Refused
from jobs.contract.job import Outcome, Submission
from jobs.contract.lifecycle import State
from jobs.redis_client.client import RedisClient
from jobs.store import codec
from jobs.store.background_lease import BackgroundLease
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from tests.support.servers import ENGINES, Server

FLIGHT_MS = 60_000
SETTINGS = BulkSettings(bulk_files=3, bulk_batches=2)
BROKEN = Refused("malformed_request", "broken")


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    yield server
    server.close()


@pytest.fixture
async def store(server: Server, anyio_backend: str) -> AsyncIterator[JobStore]:
    del anyio_backend
    with server.client() as client:
        client.flushall()
    connection = RedisClient(server.url, 5)
    yield JobStore(StoreSettings(redis_url=server.url), connection)
    await connection.aclose()


async def upload(store: JobStore) -> str:
    file = File(files.new_file_id(0), "default", "lines", "batch", 7, 0, 1 << 50)
    await files.add_file(store, SETTINGS, file)
    return file.id


async def open_bulk(store: JobStore, key: str = "k", *, again: bool = False) -> Bulk:
    file = await upload(store)
    asked = BulkRequest(file, "/v1/jobs", "24h", 60_000, b"{}", "", "", key, again, 0)
    return await records.create_bulk(store, SETTINGS, "default", asked, 1_000)


async def fly(store: JobStore) -> BackgroundLease:
    (lease,), _ = await checkpoints.dispatch_due_steps(store, store.roots[0], 5, 5, FLIGHT_MS)
    return lease


def job(bulk: Bulk, number: int) -> Submission:
    return Submission(checkpoints.job_id(bulk.id, number), "m", "1", "raw", b"in", lane="bulk", bulk=f"line-{number}")


async def run(store: JobStore, count: int) -> list[Outcome]:
    claimed = (await store.claim("m", "1", "w1", count)).jobs
    outcomes = [Outcome(one.id, one.attempt, State.SUCCEEDED, b'{"y":1}') for one in claimed]
    assert await store.finish("w1", outcomes) == 0
    return outcomes


async def stand(store: JobStore, lease: BackgroundLease) -> checkpoints.BulkSnapshot:
    return await checkpoints.begin_step(store, lease, FLIGHT_MS)


async def test_an_outcome_is_logged_once_for_repeated_steps(store: JobStore) -> None:
    bulk = await open_bulk(store)
    lease = await fly(store)
    await store.submit([job(bulk, 1), job(bulk, 2)])
    outcomes = await run(store, 2)
    assert await store.finish("w1", outcomes) == 0
    # A step that died before its checkpoint submits again; by then the jobs may be forgotten.
    await store.connection.pipeline([("DEL", f"jitney:{{s00}}:job:{one.id}") for one in outcomes])
    await store.submit([job(bulk, 1), job(bulk, 2)])
    await run(store, 2)
    seen = await stand(store, lease)
    assert (seen.waiting, seen.bulk.completed, seen.bulk.failed) == (2, 2, 0)
    ids = [list(codec.read_outcome(one)[:2]) for one in await checkpoints.read_outcomes(store, bulk, 10, 1 << 20)]
    assert sorted(ids) == [[checkpoints.job_id(bulk.id, n), f"line-{n}"] for n in (1, 2)]


async def test_a_line_that_ends_without_a_run_removes_its_job(store: JobStore) -> None:
    """A queued, a running, a finished and a never created job."""
    bulk = await open_bulk(store)
    lease = await fly(store)
    await store.submit([job(bulk, n) for n in (1, 2, 3)])
    await run(store, 1)
    running = (await store.claim("m", "1", "w1", 1)).jobs
    ends = [LineFailure(checkpoints.job_id(bulk.id, n), f"line-{n}", "canceled", BROKEN) for n in (1, 2, 3, 4)]
    await checkpoints.record_expansion(store, lease, FLIGHT_MS, bulk, taken=4, place=(4, 40), size=0, ends=ends)
    await checkpoints.record_expansion(
        store, lease, FLIGHT_MS, bulk, taken=4, place=(4, 40), size=0, ends=ends
    )  # sent twice
    seen = (await stand(store, lease)).bulk
    assert (seen.expanded, seen.line, seen.offset, seen.completed, seen.failed) == (4, 4, 40, 1, 3)
    late = [Outcome(one.id, one.attempt, State.SUCCEEDED, b"{}") for one in running]
    assert await store.finish("w1", late) == 1
    assert (await stand(store, lease)).waiting == 4


async def test_a_superseded_lease_holder_writes_nothing(store: JobStore) -> None:
    bulk = await open_bulk(store)
    (lost,), _ = await checkpoints.dispatch_due_steps(store, store.roots[0], 5, 5, 0)
    lease = await fly(store)  # the first counts as lost at once
    assert lease == BackgroundLease(bulk.id, lost.number + 1)
    part = ResultPart("p", 1, 0, 5, 0, 1, 0)
    for step in (
        checkpoints.begin_step(store, lost, FLIGHT_MS),
        checkpoints.update_bulk(store, lost, FLIGHT_MS),
        checkpoints.record_expansion(store, lost, FLIGHT_MS, bulk, taken=1, place=(1, 1), size=0, ends=[]),
        checkpoints.record_collection(store, lost, FLIGHT_MS, bulk, part, expires_ms=1, kept_s=1),
        checkpoints.close_bulk(store, lost, checkpoints.BulkCompletion("completed", "", b"", {"completed_ms": 1}), 1),
    ):
        with pytest.raises(LeaseLost):
            await step
    await checkpoints.finish_step(store, lost, 0)
    assert (await stand(store, lease)).bulk == (await records.get_bulk(store, "default", f"batch_{bulk.id}"))


async def test_stored_outcomes_are_removed_from_the_log_once(store: JobStore) -> None:
    bulk = await open_bulk(store)
    lease = await fly(store)
    await store.submit([job(bulk, n) for n in (1, 2, 3)])
    await run(store, 3)
    part = ResultPart("p1", 2, 20, 50, 0, 2, 0)
    for _ in range(2):  # sent twice
        await checkpoints.record_collection(store, lease, FLIGHT_MS, bulk, part, expires_ms=1 << 50, kept_s=100)
    seen = await stand(store, lease)
    assert (seen.waiting, seen.bulk.collected, seen.bulk.out_exists, seen.bulk.err_exists) == (1, 2, True, False)
    file = await files.get_file(store, "default", bulk.out_file)
    assert (file.size_bytes, file.lines, file.purpose) == (50, 2, "batch_output")
    with pytest.raises(LeaseLost):  # another was faster
        await checkpoints.record_collection(
            store, lease, FLIGHT_MS, bulk, part._replace(name="p2"), expires_ms=1, kept_s=1
        )


async def test_a_bulk_job_is_woken_when_its_last_line_ends(store: JobStore) -> None:
    bulk = await open_bulk(store)
    lease = await fly(store)
    await store.submit([job(bulk, 1)])
    await checkpoints.record_expansion(store, lease, FLIGHT_MS, bulk, taken=1, place=(1, 1), size=2, ends=[])
    await checkpoints.finish_step(store, lease, 60)
    assert (await checkpoints.dispatch_due_steps(store, store.roots[0], 5, 5, FLIGHT_MS))[0] == []
    await run(store, 1)
    lease = await fly(store)
    await store.submit([job(bulk, 2)])
    bulk = (await stand(store, lease)).bulk
    await checkpoints.record_expansion(store, lease, FLIGHT_MS, bulk, taken=1, place=(2, 2), size=2, ends=[])
    await run(store, 1)  # while a step is under way
    await checkpoints.finish_step(store, lease, 60)
    await fly(store)


async def test_a_repeated_request_makes_one_bulk_job_and_records_are_bounded(store: JobStore) -> None:
    first = await open_bulk(store, "same")
    assert (await open_bulk(store, "same", again=True)).id == first.id
    assert (await open_bulk(store, "same")).id != first.id
    with pytest.raises(OverLimit, match="limit of 3 files is reached"):
        await upload(store)
    with pytest.raises(Refused, match="no batch"):
        await records.get_bulk(store, "another", f"batch_{first.id}")


async def test_faults_and_losses_in_a_row_are_counted_until_a_checkpoint(store: JobStore) -> None:
    """A step that kills its process used to repeat for ever: now it is counted, with pauses between."""
    bulk = await open_bulk(store)
    root, key = store.roots[0], f"jitney:{{s00}}:bulk:{bulk.id}"

    def wake(client: Any) -> None:
        client.zadd(f"jitney:{{s00}}:bulk_due:{bulk.tenant}", {bulk.id: 1})
        client.zadd("jitney:{s00}:bulk_due", {bulk.tenant: 1})

    async def fly_again() -> BackgroundLease:
        """Dispatch it in spite of its backoff."""
        with store_client(store) as client:
            client.hdel(key, "not_before")
            if client.zscore(f"jitney:{{s00}}:bulk_due:{bulk.tenant}", bulk.id) is not None:
                wake(client)
        return await fly(store)

    for lost in range(3):
        lease = await fly_again()
        assert (await stand(store, lease)).bulk.losses == lost
        with store_client(store) as client:
            client.zadd("jitney:{s00}:bulk_running", {bulk.id: 1})  # it says nothing for so long
    assert (await checkpoints.dispatch_due_steps(store, root, 5, 5, FLIGHT_MS))[0] == []  # it rests
    lease = await fly_again()
    await checkpoints.finish_step(store, lease, 60, "it failed", is_fault=True)
    with store_client(store) as client:
        wake(client)  # by outcomes, before its rest is over
    assert (await checkpoints.dispatch_due_steps(store, root, 5, 5, FLIGHT_MS))[0] == []
    lease = await fly_again()
    seen = (await stand(store, lease)).bulk
    assert (seen.faults, seen.losses, seen.stalled) == (1, 3, "it failed")
    await checkpoints.record_expansion(store, lease, FLIGHT_MS, bulk, taken=1, place=(1, 1), size=2, ends=[])
    seen = (await stand(store, lease)).bulk
    assert (seen.faults, seen.losses) == (0, 0)


@contextmanager
def store_client(store: JobStore) -> Iterator[Any]:
    with redis.Redis.from_url(store.settings.redis_url) as client:
        yield client
