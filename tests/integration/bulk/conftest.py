"""Fixtures: a queue, a gateway, a background process, OpenAI's client, and the test as the worker."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from openai import OpenAI
from openai.types import Batch

from tests.support import bulks, invariants
from tests.support.background_process import ALLOW, BackgroundProcess
from tests.support.gateways import GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import wait_until_async


class Processes(NamedTuple):
    server: Server
    gateway: GatewayProcess
    background_process: BackgroundProcess
    folder: Path  # of the bulk files


@dataclass
class BulkStack:
    """All parts, and the folder of the files."""

    server: Server
    gateway: GatewayProcess
    background_process: BackgroundProcess
    worker: Worker
    folder: Path
    ai: OpenAI

    def jobs(self) -> int:
        """Count the jobs in the queue."""
        with self.server.client() as client:
            return len(list(client.scan_iter("jitney:*:job:*", count=1000)))

    def open_jobs(self) -> int:
        """Count the open jobs."""
        with self.server.client() as client:
            return int(client.zcard("jitney:{s00}:timers"))

    async def run(self, count: int) -> int:
        """Run up to a number of queued jobs; return how many."""
        claimed = await self.worker.claim(count)
        await self.worker.succeed(claimed)
        return len(claimed)

    async def run_exactly(self, count: int) -> None:
        """Run a number of jobs as they arrive."""
        left = count

        async def ran() -> bool:
            nonlocal left
            left -= await self.run(left)
            return left == 0

        await wait_until_async(ran, f"{count} jobs ran")

    async def run_all(self, batch: Batch, ai: OpenAI | None = None) -> Batch:
        """Run jobs until the batch has ended; return it."""
        while (seen := (ai or self.ai).batches.retrieve(batch.id)).status not in bulks.ENDED:
            await self.run(32)
        return seen


@pytest.fixture
def settings() -> Mapping[str, str]:
    """Override for other settings."""
    return {}


@contextmanager
def start_processes(settings: Mapping[str, str], folder: Path) -> Iterator[Processes]:
    """Run the processes during a `with`."""
    env = {**bulks.QUICK, **ALLOW, "JITNEY_BULK_STORE": str(folder), **settings}
    with ExitStack() as held:
        server = Server()
        held.callback(server.close)
        gateway = held.enter_context(GatewayProcess(server, env))
        yield Processes(server, gateway, held.enter_context(BackgroundProcess(server, env)), folder)


@pytest.fixture
def processes(settings: Mapping[str, str], tmp_path: Path) -> Iterator[Processes]:
    with start_processes(settings, tmp_path / "bulk") as started:
        yield started


@pytest.fixture
async def plant(processes: Processes, anyio_backend: str) -> AsyncIterator[BulkStack]:
    """Serve the model `m`; check the remaining data at the end."""
    del anyio_backend
    server, gateway, background, folder = processes
    worker = Worker(server)
    await worker.announce(gateway)
    with bulks.client(f"http://127.0.0.1:{gateway.port}", max_retries=0) as ai:
        yield BulkStack(server, gateway, background, worker, folder, ai)
    await worker.connection.aclose()
    with server.client() as client:
        invariants.check(client)
