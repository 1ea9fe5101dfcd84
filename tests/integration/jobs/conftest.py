"""A job store on each supported server, empty before each test and checked after it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from jobs.contract.errors import JitneyError
from jobs.contract.ids import new_job_id, shard_of
from jobs.contract.job import Accepted, ClaimedJob, Outcome, Submission
from jobs.contract.lifecycle import State
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore
from jobs.store.maintenance import SweepResult, sweep
from jobs.store.settings import StoreSettings
from tests.support import invariants, records
from tests.support.servers import ENGINES, Server

FAR_FUTURE_MS = 1 << 52


@pytest.fixture(scope="package", params=ENGINES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    yield server
    server.close()


@dataclass
class StoreBench:
    """A store with helpers for tests."""

    store: JobStore
    server: Server

    def job(self, **fields: Any) -> Submission:
        job_id = new_job_id(fields.pop("shard", 0))
        return Submission(**{"id": job_id, "model": "m", "version": "1", "kind": "raw", "input": b"in", **fields})

    async def submit(self, count: int = 1, **fields: Any) -> list[str]:
        return [accepted.id for accepted in await self.take(*(self.job(**fields) for _ in range(count)))]

    async def take(self, *jobs: Submission, gateway: str = "", store: JobStore | None = None) -> list[Accepted]:
        """Submit jobs that must all be accepted; raise the first refusal."""
        verdicts = await (store or self.store).submit(jobs, gateway)
        for verdict in verdicts:
            if isinstance(verdict, JitneyError):
                raise verdict
        return [verdict for verdict in verdicts if isinstance(verdict, Accepted)]

    async def claim(self, want: int = 32, worker: str = "w1") -> list[ClaimedJob]:
        return (await self.store.claim("m", "1", worker, want)).jobs

    async def claim_suspects(self, worker: str) -> list[ClaimedJob]:
        return (await self.store.claim("m", "1", worker, 32, isolated=True)).jobs

    @contextmanager
    def subscribe_worker(self, worker: str) -> Iterator[Callable[[], bytes]]:
        """Subscribe as a worker; return a function that reads the next notification or handoff."""
        with self.server.client() as client, client.pubsub(ignore_subscribe_messages=False) as heard:
            heard.subscribe(keys.wake_channel(worker))
            heard.get_message(timeout=5)
            yield lambda: (heard.get_message(timeout=5) or {"data": b""})["data"]

    def end_cooldown(self) -> None:
        """End the cooldown after an isolated run that killed its worker."""
        with self.server.client() as client:
            client.delete("jitney:{s00}:isolation:m:1")

    async def sweep(self) -> SweepResult:
        """Sweep like a gateway outside any grace period."""
        return await sweep(self.store, FAR_FUTURE_MS)

    async def state(self, job_id: str) -> str:
        (job,) = await self.store.read([job_id])
        return job.state.value if job else "gone"

    def succeed(self, claimed: list[ClaimedJob], body: bytes = b'{"a":1}') -> list[Outcome]:
        return [Outcome(job.id, job.attempt, State.SUCCEEDED, body, 1.0, 2.0, 3.0, len(claimed)) for job in claimed]

    def end_lease(self, job_id: str) -> None:
        """Move the end of a job's lease into the past."""
        with self.server.client() as client:
            client.zadd(keys.timers(shard_of(job_id)), {job_id: 1})

    def end_delay(self, job_id: str) -> None:
        """Move the time of a job's retry into the past."""
        with self.server.client() as client:
            client.zadd(f"jitney:{{s{job_id[:2]}}}:retries", {job_id: 1})

    def pass_deadline(self, job_id: str) -> None:
        """Move a job's deadline into the past."""
        with self.server.client() as client:
            records.change(client, job_id, deadline_ms="1")
            client.zadd(keys.timers(shard_of(job_id)), {job_id: 1})


@pytest.fixture
async def bench(server: Server, anyio_backend: str) -> AsyncIterator[StoreBench]:
    del anyio_backend
    with server.client() as client:
        client.flushall()
    settings = StoreSettings(redis_url=server.url, max_lost_leases=3)
    connection = RedisClient(server.url, 5)
    yield StoreBench(JobStore(settings, connection), server)
    await connection.aclose()
    with server.client() as client:
        invariants.check(client)
