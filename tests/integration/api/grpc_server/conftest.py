"""Fixtures: a gateway that serves gRPC, a connection to it, and the test in the role of the worker."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.gateways import Worker
from tests.support.grpc_calls import CARD, GrpcGateway, connected
from tests.support.servers import Server

QUICK = {
    "JITNEY_MAX_BODY_BYTES": str(1 << 20),
    "JITNEY_MAX_BUFFERED_BODY_BYTES": str(4 << 20),
    "JITNEY_BODY_TIMEOUT_S": "2",
    "JITNEY_MAX_JOBS": "100",
}


@pytest.fixture(scope="module")
def gateway(queue: Server) -> Iterator[GrpcGateway]:
    with GrpcGateway(queue, QUICK) as process:
        yield process


@pytest.fixture
async def stub(gateway: GrpcGateway, worker: Worker) -> AsyncIterator[Any]:
    """Call the gateway, which knows the model `m`."""
    await worker.announce(gateway, **CARD)
    async with connected(gateway.grpc_port) as stub:
        yield stub
