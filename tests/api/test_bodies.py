"""A process holds so many bytes of request bodies, and no more."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from pydantic import ValidationError

from api.bodies import Bodies
from api.settings import GatewaySettings
from jobs.errors import QueueFull
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import pass_time, wait_until


def test_what_is_held_is_counted_until_it_is_let_go() -> None:
    bodies = Bodies(100)
    with bodies.hold() as first, bodies.hold() as second:
        first.expect(100)
        first.grow(60)
        second.expect(40)
        with pytest.raises(QueueFull, match="holds 60 bytes of request bodies, and may hold 100"):
            second.expect(41)
        second.grow(40)
        with pytest.raises(QueueFull):
            second.grow(1)
        assert bodies.held_bytes == 100
    assert bodies.held_bytes == 0


def test_the_largest_body_must_fit() -> None:
    with pytest.raises(ValidationError, match="at least MAX_BODY_BYTES, 1000"):
        GatewaySettings(max_body_bytes=1000, max_bodies_bytes=999)


@pytest.fixture(scope="module")
def narrow(queue: Server) -> Iterator[GatewayProcess]:
    with GatewayProcess(queue, {"MAX_BODY_BYTES": "100000", "MAX_BODIES_BYTES": "150000"}) as process:
        yield process


async def test_uploads_beyond_the_room_are_refused_and_the_room_comes_back(
    narrow: GatewayProcess, worker: Worker
) -> None:
    await worker.announce(narrow)
    head = b"POST /v1/jobs?model=m HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 90000\r\n\r\n"
    whole = PNG.ljust(90_000, b"x")
    with ExitStack() as stack:
        slow = stack.enter_context(socket.create_connection(("127.0.0.1", narrow.port)))
        slow.sendall(head + whole[:80_000])
        await pass_time(0.5)  # a look at whether it is held yet would take its room
        refused = narrow.submit(whole)
        assert (refused.json()["code"], refused.json()["limit_bytes"]) == ("queue_full", 150_000)
        assert refused.headers["retry-after"] == "1"
        assert narrow.submit().status_code == 202  # a small one has room
        slow.sendall(whole[80_000:])
        with slow.makefile("rb") as answer:
            assert b" 202 " in answer.readline()
        assert narrow.submit(whole).status_code == 202
        gone = stack.enter_context(socket.create_connection(("127.0.0.1", narrow.port)))
        gone.sendall(head + whole[:80_000])
        await pass_time(0.5)
        assert narrow.submit(whole).status_code == 503
    wait_until(lambda: narrow.submit(whole).status_code == 202, "who hung up holds nothing")


async def test_a_caller_who_waits_holds_no_body(narrow: GatewayProcess, worker: Worker) -> None:
    await worker.announce(narrow)
    whole = PNG.ljust(90_000, b"x")
    head = b"POST /v1/jobs?model=m HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nPrefer: wait=20\r\n"
    with ExitStack() as stack:
        for nth in range(3):
            caller = stack.enter_context(socket.create_connection(("127.0.0.1", narrow.port)))
            caller.sendall(head + b"Content-Length: 90000\r\n\r\n" + whole)
            wait_until(lambda count=nth + 1: narrow.http.get("/v1/jobs").text.count('"queued"') == count, "it waits")  # type: ignore[misc]
