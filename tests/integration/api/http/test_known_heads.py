"""A request whose head is known is read as if its head had been parsed, however its bytes arrive."""

import json
import random
from typing import Any

import pytest

from api.asgi.known_heads import MAX_HEAD_BYTES, MAX_KEPT, KnownHead, KnownHeads
from tests.support.protocol_server import StubServer, serving
from tests.support.waiting import pass_time

pytestmark = pytest.mark.anyio


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """Respond with all that the app learns of a request."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    names = ("http_version", "scheme", "root_path", "method", "path", "state")
    told = {name: scope[name] for name in names} | {
        "query": scope["query_string"].decode(),
        "raw_path": scope["raw_path"].decode(),
        "id": scope["request_id"].decode(),
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
        "peer": [scope["server"], scope["client"][0]],
        "body": body.decode("latin-1"),
    }
    scope["request_id"], scope["state"]["used"] = b"changed", True  # must not reach the next request
    answer = json.dumps(told).encode()
    headers = [(b"content-length", b"%d" % len(answer))]
    await send({"type": "jitney.answer", "status": 200, "headers": headers, "body": answer})


def post(path: str, body: bytes, *fields: str) -> bytes:
    head = "".join(f"{field}\r\n" for field in ("Host: x", *fields, f"Content-Length: {len(body)}"))
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class CountedHeads(KnownHeads):
    """Counts the requests whose head is known."""

    hits = 0

    def find(self, head: bytes) -> KnownHead | None:
        known = super().find(head)
        self.hits += known is not None
        return known


def heads_of(wire: StubServer) -> KnownHeads:
    return wire.connections[0].heads


async def use(wire: StubServer, heads: KnownHeads) -> None:
    """Give all connections of a server this table."""
    with await wire.connect() as caller:
        await caller.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await caller.hear(lambda heard: heard.endswith(b"}"))
        type(wire.connections[0]).heads = heads


async def ask(wire: StubServer, pieces: list[bytes], count: int) -> list[Any]:
    """Send the pieces on one connection, and return the answers' bodies or, of errors, their status."""
    with await wire.connect() as caller:
        for piece in pieces:
            await caller.send(piece)
        heard = await caller.hear(lambda heard: heard.count(b'"body": ') == count and heard.endswith(b"}"))
    answers = []
    for part in heard.split(b"HTTP/1.1 ")[1:]:
        head, _, body = part.partition(b"\r\n\r\n")
        if not head.startswith(b"100"):
            answers.append(json.loads(body) if head.startswith(b"200") else head[:3])
    return answers


async def test_a_repeated_head_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tell) as wire:
        first = await ask(wire, [post("/v1/jobs?a=%20", b"one")], 1)
        with await wire.connect() as caller:
            await caller.send(post("/v1/jobs?a=%20", b"two"))
            await caller.hear(lambda heard: heard.endswith(b"}"))
            connection = wire.connections[0]
            fed: list[bytes] = []
            monkeypatch.setattr(connection, "_feed", fed.append)
            await caller.send(post("/v1/jobs?a=%20", b"six"))
            heard = await caller.hear(lambda heard: heard.endswith(b"}"))
        assert fed == []
        assert json.loads(heard.partition(b"\r\n\r\n")[2]) == {**first[0], "body": "six"}


async def test_any_stream_of_requests_reads_the_same_with_known_heads_and_without() -> None:
    """Whole requests, pieces of them, and pipelined ones; heads that are kept, and heads that are not."""
    chance = random.Random(7)
    inner = b"POST /inner HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"  # as a body, it is no request
    kinds = (
        lambda: post("/v1/jobs", chance.choice([b"12345", b"\r\n\r\n.", b"abcde"]), "Prefer: wait=5"),
        lambda: post("/v1/jobs?model=m", inner),
        lambda: post("/v2/models/m/infer", bytes(chance.randrange(65, 91) for _ in range(70_000))),
        lambda: post("/v1/jobs", b"12345", f"X-Request-ID: r{chance.randrange(10_000)}"),
        lambda: b"GET /v1/jobs/a HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        lambda: b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nT: t\r\n\r\n",
        lambda: b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        lambda: post("/v1/jobs", b"12345", "Expect: 100-continue"),
        lambda: post("/v1/jobs", b"12345", "Connection: Upgrade", "Upgrade: h2c"),
        lambda: b"\r\n" + post("/v1/jobs", b"12345"),
    )
    last = (post("/v1/jobs", b"12345", "Connection: close"), post("/v1/jobs", b"1").replace(b"HTTP/1.1", b"HTTP/1.0"))
    counted = CountedHeads()
    async with serving(tell) as wire, serving(tell) as plain:
        await use(wire, counted)
        await use(plain, type("NoHeads", (KnownHeads,), {"find": lambda *_: None})())
        for _ in range(40):
            requests = [chance.choice(kinds)() for _ in range(chance.randrange(1, 9))]
            requests += chance.choice([(), (), last[:1], last[1:]])
            stream, pieces = b"".join(requests), []
            while stream:
                size = chance.choice([1, 7, 60, 90, 1000, 65_536, len(stream)])
                pieces.append(stream[:size])
                stream = stream[size:]
            answers = await ask(wire, pieces, len(requests))
            expected = await ask(plain, pieces, len(requests))
            for answer in (*answers, *expected):
                del answer["peer"]
            assert answers == expected
            assert len(answers) == len(requests)
        assert counted.hits > 50


async def test_requests_that_seldom_repeat_are_not_kept_and_the_table_is_bounded() -> None:
    async with serving(tell) as wire:
        with await wire.connect() as caller:
            seldom = (
                post("/", b"x", "Idempotency-Key: k"),
                post("/", b"x", "X-Request-ID: r"),
                post("/", b"x", "Expect: 100-continue"),
                post("/", b"x", f"traceparent: 00-{'1' * 32}-{'2' * 16}-01"),
                post("/", b"x", f"long: {'l' * MAX_HEAD_BYTES}"),
                post("/v1/files", b"x"),  # its timeout grows with its bytes
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            )
            for request in seldom:
                await caller.send(request)
                await caller.hear(lambda heard: heard.endswith(b"}"))
            assert heads_of(wire)._known == {}
            for number in range(2 * MAX_KEPT):
                await caller.send(post(f"/{number}", b"x"))
                await caller.hear(lambda heard: heard.endswith(b"}"))
                assert 0 < len(heads_of(wire)._known) <= MAX_KEPT


async def test_a_head_that_is_refused_is_not_kept() -> None:
    """The head before it came in two pieces, and is not kept: what was parsed of it must not stand for this one."""
    good = post("/", b"x")
    async with serving(tell) as wire:
        with await wire.connect() as caller:
            await caller.send(good[:20])
            await pass_time(0.05)
            await caller.send(good[20:])
            await caller.hear(lambda heard: heard.endswith(b"}"))
            heads = heads_of(wire)
            await caller.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")
            assert (await caller.hear()).startswith(b"HTTP/1.1 400 ")
            assert heads._known == {}
