"""Fixtures: a queue, a gateway, a real `jitney background`, real receivers, and the test as the worker."""

import base64
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support import invariants
from tests.support.background_process import ALLOW, BackgroundProcess
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.receiver import Receiver
from tests.support.servers import Server
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def gateway(queue: Server) -> Iterator[GatewayProcess]:
    with GatewayProcess(queue, {**ALLOW, "JITNEY_RESULT_TTL_S": "60"}) as process:
        yield process


@pytest.fixture(scope="module")
def background_process(queue: Server) -> Iterator[BackgroundProcess]:
    with BackgroundProcess(queue) as process:
        yield process


@dataclass
class WebhookStack:
    """A gateway and a worker, with helpers for tests."""

    gateway: GatewayProcess
    worker: Worker

    def submit(self, webhook: Any, **fields: Any) -> str:
        """Submit a job with a webhook; return its id."""
        job = {"model": "m", "input": {"image": IMAGE}, "webhook": webhook, **fields}
        answer = self.gateway.http.post("/v1/jobs", json=job)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def finish(self, count: int = 1) -> None:
        """Run the queued jobs."""
        claimed = await self.worker.claim(count)
        assert len(claimed) == count
        await self.worker.succeed(claimed)

    def deliveries(self, **query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.gateway.http.get("/v1/webhooks", params=query).json()["deliveries"]
        return found

    def ended(self, job: str, state: str, timeout_s: float = 10) -> dict[str, Any]:
        """Wait until the delivery of a job has this state; return it."""
        wait_until(
            lambda: [one["state"] for one in self.deliveries(job=job)] == [state],
            f"the delivery is {state}: {self.deliveries(job=job)}",
            timeout_s,
        )
        return self.deliveries(job=job)[0]

    def endpoint(self, receiver: Receiver) -> dict[str, Any]:
        listed = self.gateway.http.get("/v1/webhooks/endpoints").json()["endpoints"]
        (found,) = [one for one in listed if one["origin"] == receiver.url]
        assert isinstance(found, dict)
        return found

    def secret(self) -> str:
        return str(self.gateway.http.get("/v1/webhooks/secret").json()["key"])


IMAGE = base64.b64encode(PNG).decode()


@pytest.fixture
async def post(queue: Server, gateway: GatewayProcess, anyio_backend: str) -> AsyncIterator[WebhookStack]:
    """Begin with the model `m`; check the remaining data at the end."""
    del anyio_backend
    worker = Worker(queue)
    await worker.announce(gateway)
    yield WebhookStack(gateway, worker)
    await worker.connection.aclose()
    with queue.client() as client:
        invariants.check(client)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
