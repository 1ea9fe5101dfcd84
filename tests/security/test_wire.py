"""A1, A2, A3, A6, A14: oversized, slow, compressed, fragmented and malformed HTTP traffic.

Whatever it is, the gateway answers or closes within its bounds, its memory stays as it was, and others are served.
"""

import gzip
import itertools
import json
import resource
import socket
import statistics
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.security.conftest import BODY_BYTES
from tests.support.api_keys import callers
from tests.support.gateways import PNG, GatewayProcess
from tests.support.servers import Server
from tests.support.sockets import (
    Received,
    connect,
    cpu_s,
    open_files,
    post,
    read_until_closed,
    rss_bytes,
    send_and_read,
    time_first_byte,
)
from tests.support.waiting import check_during, wait_until

JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
# Room for what the kernel takes of a sender before anybody reads it, both ways, on loopback.
KERNEL_BYTES = 16 << 20
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def unharmed(gateway: GatewayProcess, more_bytes: int = 40 << 20) -> Iterator[None]:
    """Check that the same process serves afterwards, with unchanged memory and open files."""
    gateway.http.get("/healthz")
    pid = gateway.process.pid
    files, memory = open_files(pid), rss_bytes(pid)
    yield
    assert gateway.process.poll() is None
    assert gateway.http.get("/healthz").status_code == 200
    wait_until(lambda: open_files(pid) <= files + 1, "the connections are closed")
    assert rss_bytes(pid) - memory < more_bytes
    assert "Traceback" not in gateway.log()


# ---- A1: giant bodies


@pytest.mark.parametrize("declared", ["Content-Length: 10737418240", CHUNKED])
def test_a1_a_giant_body_is_refused_and_no_more_of_it_is_read(tight: GatewayProcess, declared: str) -> None:
    piece = b"x" * 65_536
    pieces = (b"%x\r\n%s\r\n" % (len(piece), piece) if declared == CHUNKED else piece for _ in range(10 * (1 << 14)))
    with unharmed(tight):
        said = send_and_read(
            tight.port, itertools.chain([post("/v1/jobs?model=m", "Content-Type: image/png", declared)], pieces)
        )
    assert (said.status, said.closed) == (413, True)
    assert json.loads(said.data.partition(b"\r\n\r\n")[2])["limit_bytes"] == BODY_BYTES
    assert said.sent < BODY_BYTES + KERNEL_BYTES


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: -1",),
        ("Content-Length: 1e3",),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 99999999999999999999999",),
        ("Content-Length: 5", CHUNKED),
        ("Transfer-Encoding: chunked, identity",),
        ("Content-Length: 0x10",),
    ],
)
def test_a1_lengths_that_contradict_themselves_are_refused(tight: GatewayProcess, headers: tuple[str, ...]) -> None:
    with unharmed(tight):
        said = send_and_read(tight.port, post("/v1/jobs", JSON, *headers, body=b"hello"))
    assert (said.status, said.closed) == (400, True)
    assert json.loads(said.data.partition(b"\r\n\r\n")[2])["code"] == "malformed_request"


def test_a1_a_body_shorter_than_declared_is_awaited_for_a_limited_time(tight: GatewayProcess) -> None:
    begun = time.monotonic()
    said = send_and_read(tight.port, post("/v1/jobs", JSON, "Content-Length: 100", body=b"{}"))
    assert (said.status, said.closed) == (408, True)
    assert time.monotonic() - begun < 3 + 2


def test_a1_a_body_refused_for_another_reason_is_not_read_further_either(tight: GatewayProcess) -> None:
    pieces = itertools.chain([post("/nowhere", "Content-Length: 1073741824")], itertools.repeat(b"x" * 65_536, 16_384))
    with unharmed(tight):
        said = send_and_read(tight.port, pieces)
    assert (said.status, said.closed) == (404, True)
    assert said.sent < KERNEL_BYTES


# ---- A2: slowloris


CONNECTIONS = 1000
SLOW = {
    "heads": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"x-more: y\r\n"),
    "a line": (b"", b"\r\n"),
    "bodies": (post("/v1/jobs", JSON, "Content-Length: 1000"), b"x"),
    "chunk extensions": (post("/v1/jobs", JSON, CHUNKED, body=b"5;"), b"x"),
}


@pytest.mark.parametrize("what", SLOW)
def test_a2_a_thousand_slow_senders_are_cut_off_and_the_others_do_not_wait(tight: GatewayProcess, what: str) -> None:
    first, drip = SLOW[what]
    with unharmed(tight), many(tight, CONNECTIONS) as slow:
        for connection in slow:
            connection.sendall(first)
        begun = time.monotonic()
        served: list[float] = []
        left = list(slow)

        def feed() -> None:
            served.extend(time_first_byte(tight.port, GET) for _ in range(5))
            for connection in [*left]:
                if not fed(connection, drip):
                    left.remove(connection)

        while left:
            assert time.monotonic() - begun < 3 + 4, f"{len(left)} are still there"
            check_during(feed, 0.2)
        assert statistics.median(served) < 1  # a third of what a slow sender may take


def test_a2_a_caller_that_does_not_read_its_response_is_cut_off(tight: GatewayProcess) -> None:
    """Pipelined requests without a reader: the gateway stops reading, then closes the connection."""
    with unharmed(tight), connect(tight.port) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asks = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
        deaf.sendall(asks)
        wait_until(lambda: b"01" not in _tcp_states(deaf), "it is cut off", 10)


def _tcp_states(connection: socket.socket) -> bytes:
    """Return the kernel's state of a connection, without a read from it; 01 means established."""
    return b"%02d" % connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def test_a2_a_full_connection_table_closes_the_longest_idle_connection(queue: Server) -> None:
    with GatewayProcess(queue, {"JITNEY_MAX_CONNECTIONS": "20"}) as gateway, many(gateway, 40) as opened:
        assert [read_until_closed(connection) for connection in opened[:15]] == [(b"", True)] * 15
        kept = opened[-1]
        for _ in range(30):  # it is used, so others are idle for longer
            kept.sendall(GET)
            assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")
            assert Received(*hear_one(gateway), 0).status == 200


def test_a2_requests_under_way_leave_connections_for_other_tenants() -> None:
    """Streams of one tenant used to fill the table; then all tenants were refused."""
    with ExitStack() as stack:
        queue = Server()  # with keys, which the other tests do without
        stack.callback(queue.close)
        gateway = stack.enter_context(GatewayProcess(queue, {"JITNEY_MAX_CONNECTIONS": "20"}))
        greedy, calm = callers(queue, gateway, "greedy", "calm")
        streams = [stack.enter_context(greedy.stream("GET", "/v1/events")) for _ in range(14)]
        assert {answer.status_code for answer in streams} == {200}
        refused = greedy.get("/v1/jobs")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert refused.headers["retry-after"] == "1"
        assert "14 requests in progress of this tenant" in refused.json()["detail"]
        assert calm.get("/v1/jobs").status_code == 200
        streams[0].close()
        wait_until(lambda: greedy.get("/v1/jobs").status_code == 200, "its share has room again")


def test_a2_pipelining_connections_of_unknown_callers_cost_nothing(tight: GatewayProcess) -> None:
    """30 connections with 9 MB of requests used to take 900 MB and delay others by 3 s."""
    ask = b"GET /openapi.json HTTP/1.1\r\n\r\n"
    with unharmed(tight, 30 << 20), many(tight, 30) as deaf:
        for connection in deaf:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.setblocking(False)
            with suppress(BlockingIOError):
                for _ in range(20):
                    connection.send(ask * 10_000)
        time_first_byte(tight.port, GET)  # others are served meanwhile
        for connection in deaf:
            connection.close()


def hear_one(gateway: GatewayProcess) -> tuple[bytes, bool]:
    with connect(gateway.port) as connection:
        connection.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        return read_until_closed(connection)


@contextmanager
def many(gateway: GatewayProcess, count: int) -> Iterator[list[socket.socket]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 1000), hard))
    with ExitStack() as stack:
        yield [stack.enter_context(connect(gateway.port)) for _ in range(count)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def fed(connection: socket.socket, drip: bytes) -> bool:
    """Send a little more; False once the other side has ended it."""
    connection.settimeout(0)
    try:
        connection.sendall(drip)
        connection.recv(1 << 16)  # an answer, or nothing because it is closed: either is the end
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


# ---- A3: packed bodies


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate"])
def test_a3_a_packed_bomb_is_decompressed_only_up_to_the_limit(tight: GatewayProcess, encoding: str) -> None:
    pack = zlib.compress if encoding == "deflate" else gzip.compress
    bomb = pack(bytes(300_000_000), 9)
    before_s = cpu_s(tight.process.pid)
    with unharmed(tight, 10 << 20):
        headers = {"content-encoding": encoding, "content-type": "application/json"}
        for path in ("/v1/jobs", "/predict"):
            answer = tight.http.post(path, content=bomb, headers=headers)
            assert (answer.status_code, answer.json()["limit_bytes"]) == (413, BODY_BYTES)
    assert cpu_s(tight.process.pid) - before_s < 1


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd"])
def test_a3_another_content_encoding_is_refused_and_not_decompressed(tight: GatewayProcess, encoding: str) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    with unharmed(tight):
        headers = {"content-encoding": encoding, "content-type": "application/json"}
        for path in ("/v1/jobs", "/predict"):
            answer = tight.http.post(path, content=bomb, headers=headers)
            assert (answer.status_code, answer.json()["allowed"]) == (415, ["gzip", "deflate", "identity"])


# ---- A6: crumbs


def test_a6_half_a_million_one_byte_chunks_are_read_or_refused_and_leave_nothing(tight: GatewayProcess) -> None:
    crumbs = b"1\r\nx\r\n" * 5000
    before_s = cpu_s(tight.process.pid)
    with unharmed(tight):
        said = send_and_read(
            tight.port, itertools.chain([post("/v1/jobs", JSON, CHUNKED)], [crumbs] * 100, [b"0\r\n\r\n"])
        )
    assert said.status == 400  # half a million times x is no JSON
    assert cpu_s(tight.process.pid) - before_s < 5


@pytest.mark.parametrize("flood", ["trailers", "extensions", "headers", "one header", "a line", "empty lines"])
def test_a6_bytes_outside_the_body_are_bounded_too(tight: GatewayProcess, flood: str) -> None:
    head = post("/v1/jobs", JSON, CHUNKED)
    begin, piece = {
        "trailers": (head + b"1\r\nx\r\n0\r\n", b"a: b\r\n"),
        "extensions": (head + b"1", b";abc=def"),
        "headers": (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
        "one header": (b"GET / HTTP/1.1\r\na: ", b"bbbbbb"),
        "a line": (b"GET /", b"aaaaaa"),
        "empty lines": (b"", b"\r\n" * 3),
    }[flood]
    with unharmed(tight):
        said = send_and_read(tight.port, itertools.chain([begin], itertools.repeat(piece * 10_000, 200)))
    assert said.closed
    assert said.sent < KERNEL_BYTES
    assert said.status in {0, 400, 408, 431}


def test_a6_headers_behind_a_waiting_request_are_bounded_too(tight: GatewayProcess) -> None:
    """The parser continues to read while the first response is pending."""
    waits = post("/v1/jobs", "Prefer: wait=30", JSON, "Content-Length: 10", body=b"{}")
    with unharmed(tight):
        said = send_and_read(
            tight.port, itertools.chain([waits + b"        " + GET[:-2]], itertools.repeat(b"a: b\r\n" * 10_000, 200))
        )
    assert said.closed
    assert said.sent < KERNEL_BYTES


# ---- A14: heads and JSON in no order


HEADS: dict[str, tuple[bytes, set[int]]] = {
    "no HTTP": (b"hello\r\n\r\n", {400}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), {400}),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}),
    "HTTP/9.9": (b"GET /healthz HTTP/9.9\r\n\r\n", {200, 400}),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", {200, 400}),
    "a bare line feed": (b"GET /healthz HTTP/1.1\nHost: x\n\n", {200, 400}),
    "a space before the colon": (b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n", {400}),
    "a folded header": (b"GET /healthz HTTP/1.1\r\nA: b\r\n c\r\n\r\n", {200, 400}),
    "a zero byte": (b"GET /healthz HTTP/1.1\r\nA: \x00\r\n\r\n", {400}),
    "a header of 100 kB": (b"GET /healthz HTTP/1.1\r\nA: " + b"a" * 100_000 + b"\r\n\r\n", {431}),
    "1,000 headers": (b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n", {431}),
    "a line of 100 kB": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {431}),
    "an upgrade": (b"GET /healthz HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", {200, 400, 426}),
    "h2c": (b"GET /healthz HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n", {200, 400}),
    "bytes beyond ASCII": ("GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(), {400, 404}),
    "a whole URL": (b"GET http://example.com/healthz HTTP/1.1\r\nHost: x\r\n\r\n", {200, 400}),
    "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404, 405}),
    "TRACE": (b"TRACE /healthz HTTP/1.1\r\nHost: x\r\n\r\n", {400, 405}),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404, 405}),
    "a path of escapes": (b"GET /v1/jobs/%00%0d%0aX:%20y%ff HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
    "a query of escapes": (b"GET /v1/jobs?cursor=%0d%0aX:y%ff HTTP/1.1\r\nHost: x\r\n\r\n", {400, 422}),
}


@pytest.mark.parametrize("what", HEADS)
def test_a14_strange_headers_are_answered_or_the_connection_is_closed(tight: GatewayProcess, what: str) -> None:
    request, allowed = HEADS[what]
    with unharmed(tight), connect(tight.port, 3) as connection:
        connection.sendall(request)
        data = connection.recv(1 << 16)
    said = Received(data, closed=True, sent=0)
    assert said.status in allowed, data[:500]
    head = data.partition(b"\r\n\r\n")[0].lower()
    assert b"\r\nx: y" not in head
    if said.status >= 400:
        assert b"application/problem+json" in head


JSONS: dict[str, bytes] = {
    "depth": b'{"input":' * 100_000,
    "arrays in arrays": b"[" * 900_000,
    "a million keys": b'{"input":{' + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}}",
    "NaN": b'{"model":"m","input":NaN}',
    "infinity": b'{"model":"m","deadline_ms":Infinity,"input":{"image":""}}',
    "a huge number": b'{"model":"m","deadline_ms":' + b"9" * 4000 + b',"input":{"image":""}}',
    "a tiny number": b'{"model":"m","deadline_ms":1e-999999,"input":{"image":""}}',
    "a huge exponent": b'{"model":"m","deadline_ms":1e999999999,"input":{"image":""}}',
    "the same key twice": b'{"model":"m","model":"n","input":{"image":""}}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"model":"m"}'.encode("utf-16"),
    "a lone surrogate": b'{"model":"\\ud800","input":{"image":""}}',
    "a zero byte": b'{"model":"m\\u0000","input":{"image":""}}',
    "bad UTF-8": b'{"model":"\xff\xfe"}',
    "no end": b'{"model":"m"',
    "two values": b"{}{}",
    "a line break in a name": b'{"model":"m\\r\\nX: y","input":{"image":"iVBORw0KGgo="}}',
}


@pytest.mark.parametrize("what", JSONS)
@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
def test_a14_strange_json_is_refused_with_the_reason(tight: GatewayProcess, what: str, kind: str) -> None:
    with unharmed(tight):
        answer = tight.http.post("/v1/jobs", content=JSONS[what], headers={"content-type": kind})
    assert answer.status_code in {400, 404, 413, 422}, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"


def test_a14_json_of_very_many_values_is_counted_before_it_is_read() -> None:
    with ExitStack() as stack:
        server = Server()
        stack.callback(server.close)
        gateway = stack.enter_context(GatewayProcess(server))
        bodies = (b"[" + b"[]," * 10_000_000 + b"[]]", b'{"input":' + b'{"a":' * 5_000_000)
        with unharmed(gateway, 200 << 20):
            for body in bodies:
                begun_s = cpu_s(gateway.process.pid)
                answer = gateway.http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
                assert answer.status_code == 413
                assert "1000000 JSON values" in answer.json()["detail"]
                assert cpu_s(gateway.process.pid) - begun_s < 1


def test_a14_caller_data_cannot_start_a_new_log_line(tight: GatewayProcess) -> None:
    for name in ("x\r\n2026-01-01T00:00:00.000Z gateway CRITICAL forged", "x\nforged", "\x1b[31mred"):
        body = json.dumps({"model": name, "input": {"image": "iVBORw0KGgo="}})
        tight.http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
        tight.http.get("/v1/jobs/" + "%0d%0aforged")
        tight.submit(PNG, idempotency_key="a%0d%0aforged")
    assert "forged" not in tight.log().replace("\\r", "").replace("\\nforged", "")
    assert "\x1b" not in tight.log()


def test_no_abuse_blocks_the_event_loop(tight: GatewayProcess) -> None:
    """The worst of the above while others send requests: none of them waits long."""
    waits: list[float] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            waits.append(time_first_byte(tight.port, GET))

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for what in ("a million keys", "arrays in arrays", "depth"):
            tight.http.post("/v1/jobs", content=JSONS[what], headers={"content-type": "application/json"})
    finally:
        done.set()
        asker.join()
    assert max(waits) < 0.5
