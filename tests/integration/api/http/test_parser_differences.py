"""Requests at which llhttp stops, or that it reads differently from a gateway.

The row: behind a head with `Upgrade` the body was dropped, or run as a request of its own (`curl --http2 -d` failed).
"""

import json
from typing import Any

import pytest

from tests.support.protocol_server import StubServer, serving
from tests.support.waiting import pass_time

pytestmark = pytest.mark.anyio
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
INNER = b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Respond with the request's method, path, header names and body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    names = [name.decode() for name, _ in scope["headers"]]
    told = json.dumps([scope["method"], scope["path"], names, body.decode("latin-1")]).encode()
    headers = [(b"content-length", b"%d" % len(told))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": told})


def answers(heard: bytes) -> list[tuple[int, Any]]:
    """Split responses into status and the body of `echo`."""
    found = []
    for part in heard.split(b"HTTP/1.1 ")[1:]:
        head, _, body = part.partition(b"\r\n\r\n")
        if not head.startswith(b"100"):
            found.append((int(head[:3]), json.loads(body)))
    return found


async def ask(wire: StubServer, *chunks: bytes) -> list[tuple[int, Any]]:
    with await wire.connect() as caller:
        for chunk in chunks:
            await caller.send(chunk)
        return answers(await caller.hear())


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


BODIES = {
    "a length": (b"Content-Length: %d\r\n\r\n" % len(INNER)) + INNER,
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER),
    "trailers": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nUpgrade: foo\r\n\r\n" % (len(INNER), INNER),
}


@pytest.mark.parametrize("fields", [UPGRADE, b"Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: foo\r\n"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("in_crumbs", [False, True])
async def test_an_upgrade_is_ignored_and_the_body_read(fields: bytes, body: str, *, in_crumbs: bool) -> None:
    request = b"POST /asked HTTP/1.1\r\nHost: x\r\n" + fields + BODIES[body] + NEXT
    async with serving(echo) as wire:
        first, after = await ask(wire, *(one_by_one(request) if in_crumbs else [request]))
    assert (first[0], first[1][:2], first[1][3]) == (200, ["POST", "/asked"], INNER.decode())
    assert "upgrade" not in first[1][2]
    assert after[1][:2] == ["GET", "/next"]


async def test_an_upgrade_request_with_expect_100_gets_a_continue() -> None:
    """curl does this with --http2 and a body above 1 MB."""
    head = b"POST /asked HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n" + UPGRADE + b"\r\n"
    async with serving(echo) as wire:
        with await wire.connect() as caller:
            await caller.send(head)
            assert (await caller.hear(lambda heard: heard.endswith(b"\r\n\r\n"))).startswith(b"HTTP/1.1 100 ")
            await caller.send(b"body" + NEXT)
            first, after = answers(await caller.hear())
    assert (first[1][3], after[1][1]) == ("body", "/next")


async def test_upgrades_without_a_body_and_behind_another_request_are_answered() -> None:
    get = b"GET /%d HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n"
    async with serving(echo) as wire:
        found = await ask(wire, get % 1 + get % 2 + NEXT)
    assert [one[1][1] for one in found] == ["/1", "/2", "/next"]


async def test_headers_of_an_upgrade_are_bounded_as_any() -> None:
    head = b"POST /asked HTTP/1.1\r\n" + UPGRADE + b"A: b\r\n" * 98 + b"\r\n"
    async with serving(echo) as wire:
        ((status, body),) = await ask(wire, head)
    assert (status, body["code"]) == (431, "head_too_large")


REFUSED = {
    "CONNECT": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT with a body": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 31\r\n\r\n",
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 in the line": b"GET / HTTP/2.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
    "HTTP/0.9 in the line": b"GET / HTTP/0.9\r\n\r\n",
    "a packed transfer": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a length of 5,000 digits": b"POST / HTTP/1.1\r\nContent-Length: " + b"0" * 4999 + b"5\r\n\r\nhello",
}


@pytest.mark.parametrize("what", REFUSED)
async def test_an_unsupported_protocol_is_refused_and_the_bytes_behind_it_are_no_request(what: str) -> None:
    async with serving(echo) as wire:
        ((status, body),) = await ask(wire, REFUSED[what] + INNER)
    assert (status, body["code"]) == (400, "malformed_request")


async def test_bytes_behind_connection_close_are_no_request() -> None:
    async with serving(echo) as wire:
        ((status, body),) = await ask(wire, NEXT + INNER)
    assert (status, body[1]) == (200, "/next")


async def test_the_response_to_junk_follows_that_of_the_request_before_it() -> None:
    """The junk used to be answered in place of the pending request."""
    async with serving(echo) as wire:
        first, junk = await ask(wire, INNER + b"\x00junk\r\n\r\n")
    assert (first[0], first[1][1], junk[0]) == (200, "/inner", 400)


@pytest.mark.parametrize("message", ["jitney.answer", "http.response.start"])
@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_response_before_the_end_of_its_request_announces_the_close(
    message: str, method: bytes, version: bytes
) -> None:
    """A client without this notice sent its next request into a closed connection.

    A connection that is closed at once, with unread bytes, may lose the response: so it was with HTTP/1.0.
    """

    async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": message, "status": 413, "headers": [(b"content-length", b"2")], "body": b"no"})
        if message != "jitney.answer":
            await send({"type": "http.response.body", "body": b"no"})

    async with serving(refuse) as wire:
        with await wire.connect() as caller:
            head = b"%b / HTTP/%b\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n" % (method, version)
            await caller.send(head + bytes(400_000))
            await pass_time(0.1)
            heard = await caller.hear()
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert head.lower().count(b"connection: close") == 1
    assert body == (b"" if method == b"HEAD" else b"no")


async def test_a_100_continue_is_not_sent_into_another_response() -> None:
    slow = b"POST /%d HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody"
    async with serving(echo) as wire:
        with await wire.connect() as caller:
            await caller.send(slow % 1 + slow % 2 + NEXT)
            heard = await caller.hear()
    assert [part[:3] for part in heard.split(b"HTTP/1.1 ")[1:]] == [b"100", b"200", b"100", b"200", b"200"]
