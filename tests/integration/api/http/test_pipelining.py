"""Pipelined requests, bodies, responses and connections are all bounded before they are accepted.

The row: 30 connections that pipelined 9 MB took a gateway from 62 to 969 MB, for each request behind the one that was
being answered was parsed at once.
"""

import asyncio
from typing import Any

import pytest

from api.asgi.connection_limits import ConnectionTable
from api.asgi.protocol import GatewayProtocol
from tests.support.protocol_server import BOUNDS, serving
from tests.support.waiting import pass_time, wait_until_async

pytestmark = pytest.mark.anyio
LARGE = 6 << 20  # more than the system takes of an answer
GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"


class Gate:
    """An app that responds with its path once the gate is open, and records the requests."""

    def __init__(self, body: bytes = b"", *, is_open: bool = False) -> None:
        self.asked: list[str] = []
        self.open, self._body = asyncio.Event(), body
        if is_open:
            self.open.set()

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        scope["caller"] = type("Caller", (), {"tenant": dict(scope["headers"]).get(b"tenant", b"").decode()})
        await self.open.wait()
        body = self._body or scope["path"].encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "jitney.answer", "status": 200, "headers": headers, "body": body})


async def asked(gate: Gate, count: int) -> None:
    async def are() -> bool:
        return len(gate.asked) >= count

    await wait_until_async(are, f"{count} requests are asked")


async def test_requests_behind_an_unanswered_one_are_not_parsed_and_are_answered_in_order() -> None:
    gate = Gate()
    async with serving(gate) as wire:
        with await wire.connect() as caller:
            await caller.send(b"".join(GET % number for number in range(300)))
            await asked(gate, 1)
            (connection,) = wire.connections
            assert isinstance(connection, GatewayProtocol)
            assert connection.buffered_bytes() > 299 * len(GET) - 10
            assert wire.table.buffered_bytes == connection.buffered_bytes()
            assert gate.asked == ["/0"]
            gate.open.set()
            heard = await caller.hear(lambda heard: heard.count(b"HTTP/1.1 200") == 300 and heard.endswith(b"/299"))
            assert [part.rpartition(b"\r\n")[2] for part in heard.split(b"HTTP/1.1 200 OK")[1:]] == [
                b"/%d" % number for number in range(300)
            ]
            assert gate.asked == [f"/{number}" for number in range(300)]
            assert wire.table.buffered_bytes == 0


async def test_pipelined_bytes_beyond_one_read_stay_in_the_network() -> None:
    gate = Gate()
    async with serving(gate) as wire:
        with await wire.connect() as caller:
            await caller.send(GET % 0)
            await asked(gate, 1)
            sent = await caller.fill(GET % 1 * 600_000)
            assert sent < 16 << 20  # the rest of it was not taken
            assert 0 < wire.table.buffered_bytes <= 512 << 10
            assert gate.asked == ["/0"]


async def test_a_request_waits_while_the_response_before_it_is_not_read() -> None:
    gate = Gate(bytes(LARGE), is_open=True)
    async with serving(gate) as wire:
        with await wire.connect(receive_buffer=4096) as deaf:
            await deaf.send(GET % 0 + GET % 1 + GET % 2)
            await asked(gate, 1)
            await pass_time(0.05)  # nothing is to happen
            assert gate.asked == ["/0"]
            heard = await deaf.hear(lambda heard: len(heard) > LARGE)
            await asked(gate, 2)
            assert heard.startswith(b"HTTP/1.1 200")


async def test_the_body_of_a_get_is_dropped_as_it_arrives() -> None:
    gate = Gate()
    async with serving(gate) as wire:
        with await wire.connect() as caller:
            await caller.send(b"GET /0 HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000))
            await asked(gate, 1)
            (connection,) = wire.connections
            assert connection.buffered_bytes() == 0
            gate.open.set()
            assert (await caller.hear(lambda heard: heard.endswith(b"/0"))).startswith(b"HTTP/1.1 200")


async def test_a_body_that_the_app_does_not_read_is_bounded_and_counted() -> None:
    gate = Gate()
    async with serving(gate) as wire:
        with await wire.connect() as caller:
            await caller.send(b"POST /0 HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n")
            await caller.fill(bytes(30_000_000))
            assert 64 << 10 < wire.table.buffered_bytes < 600 << 10


async def test_unread_responses_are_cut_off_at_the_tenant_that_holds_most() -> None:
    """Twelve answers of 6 MB for one tenant, one for another, and room for 20 MB."""
    gate = Gate(bytes(LARGE), is_open=True)
    async with serving(gate, BOUNDS._replace(buffers_bytes=20 << 20)) as wire:
        calm = await wire.connect(receive_buffer=4096)
        await calm.send(b"GET /calm HTTP/1.1\r\nTenant: calm\r\n\r\n")
        deaf = [await wire.connect(receive_buffer=4096) for _ in range(12)]
        for caller in deaf:
            await caller.send(b"GET /deaf HTTP/1.1\r\nTenant: deaf\r\n\r\n")
        await asked(gate, 13)

        async def is_shed() -> bool:
            return wire.table.buffered_bytes <= 20 << 20 and len(wire.connections) < 13

        await wait_until_async(is_shed, "some are cut off")
        assert {connection.tenant for connection in wire.connections} >= {"calm"}
        assert len(await calm.hear(lambda heard: len(heard) > LARGE)) > LARGE
        for caller in (calm, *deaf):
            caller.socket.close()


async def test_a_caller_that_reads_nothing_is_cut_off_also_behind_connection_close() -> None:
    """A response before a close used to stay for as long as its caller liked."""
    gate = Gate(bytes(LARGE), is_open=True)
    async with serving(gate, BOUNDS._replace(send_timeout_s=0.5)) as wire:
        with await wire.connect(receive_buffer=4096) as deaf:
            await deaf.send(b"GET /0 HTTP/1.1\r\nConnection: close\r\n\r\n")
            await asked(gate, 1)

            async def is_gone() -> bool:
                return not wire.connections

            await wait_until_async(is_gone, "it is cut off")
            assert wire.table.buffered_bytes == 0


class Stub:
    """A fake connection that only counts."""

    def __init__(self, tenant: str, size_bytes: int, last_progress_at: float = 0) -> None:
        self.tenant, self.size_bytes, self.last_progress_at = tenant, size_bytes, last_progress_at
        self.ended = ""

    def buffered_bytes(self) -> int:
        return self.size_bytes

    def close_idle(self) -> None:
        self.ended = "closed"

    def reset_connection(self) -> None:
        self.ended = "cut off"


def test_the_tenant_that_holds_most_loses_its_longest_stalled_connections_first() -> None:
    table = ConnectionTable(limit_bytes=1000)
    moving, still, other = Stub("most", 400, 9), Stub("most", 300, 1), Stub("other", 250, 0)
    for stub in (moving, still, other):
        table.count(stub, stub.size_bytes)
    assert not any(stub.ended for stub in (moving, still, other))
    newest = Stub("most", 100, 10)
    table.count(newest, 100)
    assert {stub.size_bytes: stub.ended for stub in (moving, still, other, newest)} == {
        400: "",
        300: "cut off",
        250: "",
        100: "",
    }
    assert table.buffered_bytes == 750


def test_one_response_may_be_larger_than_the_whole_budget() -> None:
    table, alone = ConnectionTable(limit_bytes=1000), Stub("a", 5000)
    table.count(alone, 5000)
    assert alone.ended == ""


def test_an_outdated_count_cuts_off_no_connection() -> None:
    table, read, newest = ConnectionTable(limit_bytes=1000), Stub("a", 900), Stub("a", 200)
    table.count(read, 900)
    read.size_bytes = 0  # it has been taken since
    table.count(newest, 200)
    assert (read.ended, newest.ended, table.buffered_bytes) == ("", "", 200)


def test_the_longest_idle_connection_is_closed_to_make_room() -> None:
    table = ConnectionTable(limit_bytes=1000)
    first, busy, second, newcomer = (Stub("", 0) for _ in range(4))
    for stub in (first, busy, second):
        table.mark_idle(stub)
    table.mark_busy(busy)
    table.mark_busy(first)
    table.mark_idle(first)  # it was used again
    table.mark_idle(newcomer)
    assert table.evict_idle(newcomer)
    assert [stub.ended for stub in (first, busy, second, newcomer)] == ["", "", "closed", ""]
    assert table.evict_idle(newcomer)
    assert first.ended == "closed"
    assert not table.evict_idle(newcomer)
