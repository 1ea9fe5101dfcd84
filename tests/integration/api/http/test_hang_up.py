"""A caller that disconnects from /predict frees its place in the batch; other disconnects cancel nothing."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import pass_time, wait_until_async

FORM = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="1.png"\r\n\r\n' + PNG + b"\r\n"
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
)
TYPE = "multipart/form-data; boundary=b"


@contextmanager
def request(gateway: GatewayProcess, target: str, *headers: str) -> Iterator[socket.socket]:
    """Send a whole request and keep the connection open."""
    lines = (f"POST {target} HTTP/1.1", "Host: x", f"Content-Type: {TYPE}", f"Content-Length: {len(FORM)}", *headers)
    with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
        caller.sendall("\r\n".join((*lines, "", "")).encode() + FORM)
        yield caller


async def queued(worker: Worker) -> None:
    async def is_queued() -> bool:
        return await worker.states() == ["queued"]

    await wait_until_async(is_queued, "the job is queued")


async def has_ended_as(worker: Worker, state: str) -> None:
    async def has() -> bool:
        return await worker.states() == [state]

    await wait_until_async(has, f"the job is {state}")


async def test_the_queued_job_of_a_disconnected_caller_is_canceled(gateway: GatewayProcess, worker: Worker) -> None:
    with request(gateway, "/predict"):
        await queued(worker)
    await has_ended_as(worker, "canceled")
    assert await worker.claim() == []
    assert "Traceback" not in gateway.log()


async def test_the_running_job_of_a_disconnected_caller_is_canceled(gateway: GatewayProcess, worker: Worker) -> None:
    with request(gateway, "/predict"):
        await queued(worker)
        claimed = await worker.claim()
    await has_ended_as(worker, "canceled")
    assert await worker.store.extend("w1", claimed) == claimed


@pytest.mark.parametrize(
    ("target", "header"), [("/predict", "Idempotency-Key: k"), ("/v1/jobs", "Prefer: wait=10"), ("/v1/jobs", "X: y")]
)
async def test_other_jobs_continue_after_a_disconnect(
    gateway: GatewayProcess, worker: Worker, target: str, header: str
) -> None:
    with request(gateway, target, header):
        await queued(worker)
    await pass_time(0.3)
    await worker.succeed(await worker.claim())
    assert await worker.states() == ["succeeded"]


async def test_a_caller_that_stays_is_answered(gateway: GatewayProcess, worker: Worker) -> None:
    with request(gateway, "/predict") as caller:
        await queued(worker)
        await worker.succeed(await worker.claim())
        with caller.makefile("rb") as answer:
            assert b" 200 " in answer.readline()


async def test_the_job_continues_where_the_setting_is_off(queue: Server, worker: Worker) -> None:
    with GatewayProcess(queue, {"JITNEY_DISCONNECT_CANCELS": "false"}) as other:
        await worker.announce(other)
        with request(other, "/predict"):
            await queued(worker)
        await pass_time(0.3)
    assert await worker.states() == ["queued"]


async def test_a_gateway_that_stops_cancels_nothing(queue: Server, worker: Worker) -> None:
    with GatewayProcess(queue) as stopping:
        await worker.announce(stopping)
        with request(stopping, "/predict") as caller:
            await queued(worker)
            stopping.stop()
            with caller.makefile("rb") as answer:
                assert b" 504 " in answer.readline()
    assert await worker.states() == ["queued"]
