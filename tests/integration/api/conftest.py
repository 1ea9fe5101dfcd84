"""Fixtures: a queue, a gateway in front of it, and the test in the role of the worker."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support import invariants
from tests.support.gateways import GatewayProcess, Worker
from tests.support.servers import Server


@pytest.fixture(scope="module")
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def gateway(queue: Server) -> Iterator[GatewayProcess]:
    with GatewayProcess(queue) as process:
        yield process


@pytest.fixture
async def worker(queue: Server, gateway: GatewayProcess, anyio_backend: str) -> AsyncIterator[Worker]:
    """Begin with an empty queue and the model `m`; check the remaining data at the end."""
    del anyio_backend
    with queue.client() as client:
        client.flushall()
    worker = Worker(queue)
    await worker.announce(gateway)
    yield worker
    await worker.connection.aclose()
    with queue.client() as client:
        invariants.check(client)
