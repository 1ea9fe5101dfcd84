"""The memory for request bodies is bounded for a process, and each tenant has a share of it."""

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import ValidationError

from api.asgi.tenant_budgets import TenantBudget
from api.settings import GatewaySettings
from jobs.contract.errors import QueueFull
from tests.support.api_keys import Caller, callers
from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.waiting import pass_time, wait_until


def refuse(message: str) -> QueueFull:
    return QueueFull(message)


def test_held_bytes_are_counted_until_they_are_released() -> None:
    shares = TenantBudget(100, "bytes", refuse)
    with shares.hold("a") as first, shares.hold("a") as second:
        first.grow(40)
        second.expect(40)
        second.grow(30)
        second.resize(20)
        assert shares.used == 60
        with pytest.raises(QueueFull, match="holds 60 bytes of this tenant and 0 of others, at most 100"):
            second.grow(21)
        assert shares.used == 60
    assert shares.used == 0


def test_a_lone_tenant_has_four_fifths_and_the_next_finds_room() -> None:
    shares = TenantBudget(100, "bytes", refuse)
    with shares.hold("greedy") as greedy, shares.hold("calm") as calm:
        greedy.grow(80)
        with pytest.raises(QueueFull):
            greedy.grow(1)
        calm.grow(16)
        with pytest.raises(QueueFull, match="holds 80 bytes of this tenant and 16 of others"):
            greedy.grow(1)


def test_one_more_tenant_finds_room_beside_thirty_greedy_ones() -> None:
    """128 started uploads used to hold the whole budget, and all submits were refused."""
    shares, ended = TenantBudget(256 << 20, "bytes", refuse), list[int]()
    for number in range(30):
        with contextlib.suppress(QueueFull):
            while True:
                share = shares.hold(f"greedy{number}", lambda number=number: ended.append(number))  # type: ignore[misc]
                share.grow(100_000)
    calm, before = shares.hold("calm"), len(ended)
    calm.grow(8_000_000)
    assert len(ended) - before in range(50, 90)
    with pytest.raises(QueueFull):  # that would be more than an equal part
        calm.grow(1_000_000)


def test_the_longest_stalled_upload_is_ended_first_with_the_reason() -> None:
    shares, ended = TenantBudget(100, "bytes", refuse), list[str]()
    first = shares.hold("greedy", lambda: ended.append("first"))
    second = shares.hold("greedy", lambda: ended.append("second"))
    done = shares.hold("greedy", lambda: ended.append("done"))
    for share, amount in ((done, 20), (first, 30), (second, 10), (first, 20)):
        share.grow(amount)
    done.keep()  # its body has come: it is not ended any more
    shares.hold("other").grow(18)
    third = shares.hold("third")
    third.grow(5)
    assert ended == ["second"]
    with pytest.raises(QueueFull, match="other tenants need these bytes"):
        second.grow(1)
    assert (second.size, shares.used) == (0, 20 + 50 + 18 + 5)


def test_no_upload_is_ended_for_a_tenant_above_its_equal_part() -> None:
    shares, ended = TenantBudget(100, "bytes", refuse), list[str]()
    shares.hold("first", lambda: ended.append("first")).grow(60)
    second = shares.hold("second")
    second.grow(30)
    with pytest.raises(QueueFull):
        second.grow(15)
    assert not ended


def test_the_largest_body_fits_where_nothing_else_is_held() -> None:
    shares = TenantBudget(100, "bytes", refuse, largest=100)
    with shares.hold("a") as alone:
        alone.grow(100)
    shares.hold("b").grow(1)
    with pytest.raises(QueueFull):
        shares.hold("a").grow(99)


def test_tenants_that_hold_nothing_leave_nothing_behind() -> None:
    shares = TenantBudget(100, "bytes", refuse)
    for number in range(1000):
        with shares.hold(f"t{number}", lambda: None) as share:
            share.grow(0)
            share.grow(1)
    assert (shares.used, shares._held, shares._evictable_shares) == (0, {}, {})


def test_the_largest_body_must_fit() -> None:
    with pytest.raises(ValidationError, match="at least JITNEY_MAX_BODY_BYTES, 1000"):
        GatewaySettings(max_body_bytes=1000, max_buffered_body_bytes=999)


@pytest.fixture(scope="module")
def narrow(queue: Server) -> Iterator[GatewayProcess]:
    with GatewayProcess(
        queue, {"JITNEY_MAX_BODY_BYTES": "100000", "JITNEY_MAX_BUFFERED_BODY_BYTES": "150000"}
    ) as process:
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


async def test_a_waiting_caller_holds_no_body(narrow: GatewayProcess, worker: Worker) -> None:
    await worker.announce(narrow)
    whole = PNG.ljust(90_000, b"x")
    head = b"POST /v1/jobs?model=m HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nPrefer: wait=20\r\n"
    with ExitStack() as stack:
        for nth in range(3):
            caller = stack.enter_context(socket.create_connection(("127.0.0.1", narrow.port)))
            caller.sendall(head + b"Content-Length: 90000\r\n\r\n" + whole)
            wait_until(lambda count=nth + 1: narrow.http.get("/v1/jobs").text.count('"queued"') == count, "it waits")  # type: ignore[misc]


# ---- two tenants


class Two(NamedTuple):
    """A gateway with a small budget, and two tenants."""

    gateway: GatewayProcess
    greedy: Caller
    calm: Caller
    worker: Worker


@pytest.fixture
async def two(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Two]:
    del anyio_backend
    room = {
        "JITNEY_MAX_BODY_BYTES": "1000000",
        "JITNEY_MAX_BUFFERED_BODY_BYTES": "4000000",
        "JITNEY_MAX_JOBS_PER_REQUEST": "20",
        "JITNEY_MAX_WAITERS": "30",
    }
    with ExitStack() as stack:
        server = Server()
        stack.callback(server.close)
        gateway = stack.enter_context(GatewayProcess(server, {**room, "JITNEY_BULK_STORE": str(tmp_path)}))
        worker = Worker(server)
        await worker.announce(gateway)
        greedy, calm = callers(server, gateway, "greedy", "calm")
        yield Two(gateway, greedy, calm, worker)
        await worker.connection.aclose()


def begin_uploads(two: Two, stack: ExitStack, count: int, size_bytes: int) -> list[socket.socket]:
    """Begin uploads and send a part of each file."""
    key = two.greedy.headers["authorization"]
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    begun = [stack.enter_context(socket.create_connection(("127.0.0.1", two.gateway.port))) for _ in range(count)]
    for connection in begun:
        connection.sendall(head.encode() + bytes(size_bytes))
    return begun


async def test_started_uploads_leave_room_for_others_and_for_their_own_tenant(two: Two) -> None:
    """Each was charged 2 MiB at its first byte: 128 of them blocked all tenants."""
    with ExitStack() as stack:
        begun = begin_uploads(two, stack, 128, 1)
        await pass_time(0.3)
        for tenant in (two.calm, two.greedy):
            assert tenant.submit(PNG.ljust(900_000, b"x")).status_code == 202
        for connection in begun:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):  # none of them was refused
                connection.recv(1)


async def test_held_uploads_are_limited_to_the_share_of_their_tenant(two: Two) -> None:
    """200 kB of each are in memory, as they fill no block yet: more than one tenant may hold."""
    with ExitStack() as stack:
        begun = begin_uploads(two, stack, 30, 200_000)

        def refused() -> int:
            return sum(_is_answered(connection) for connection in begun)

        wait_until(lambda: refused() >= 10, "some of them are refused")
        for _ in range(20):  # many at once may all be refused: one at a time, until there is no room for one more
            (last,) = begin_uploads(two, stack, 1, 200_000)
            await pass_time(0.2)
            if _is_answered(last):
                break
        else:
            raise AssertionError("20 more uploads found room")
        before = refused()
        answer = two.greedy.submit(PNG.ljust(500_000, b"x"))
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
        assert answer.headers["retry-after"] == "1"
        assert "bytes of request bodies of this tenant" in answer.json()["detail"]
        assert two.calm.submit(PNG.ljust(500_000, b"x")).status_code == 202
        assert refused() == before


def _is_answered(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    except OSError:
        return True


async def test_jobs_awaited_by_many_requests_are_counted_by_tenant(two: Two) -> None:
    """A thousand jobs for each request, over any number of connections."""
    line = b'{"model":"m","input":{"image":"iVBORw0KGgo="}}'
    headers = {"content-type": "application/x-ndjson", "prefer": "wait=20"}
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(two.greedy.post, "/v1/jobs", content=b"\n".join([line] * 20), headers=headers)
        wait_until(lambda: two.greedy.get("/v1/jobs").text.count('"queued"') == 20, "it waits")
        refused = two.greedy.post("/v1/jobs", content=b"\n".join([line] * 10), headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert "20 awaited jobs of this tenant" in refused.json()["detail"]
        other = pool.submit(two.calm.post, "/v1/jobs", content=b"\n".join([line] * 5), headers=headers)
        wait_until(lambda: two.calm.get("/v1/jobs").text.count('"queued"') == 5, "it waits, too")
        await two.worker.succeed(await two.worker.claim(40))
        assert {waits.result().status_code, other.result().status_code} == {200}
    again = two.greedy.post("/v1/jobs", content=b"\n".join([line] * 20), headers={**headers, "prefer": "wait=1"})
    assert again.status_code == 202  # they have ended, so there is room again
