"""Keep-alive connections: idle ones are closed silently, and HEAD leaves them usable."""

import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.support.gateways import PNG, GatewayProcess, Worker
from tests.support.servers import Server
from tests.support.sockets import Received, connect, read_until_closed
from tests.support.waiting import wait_until

GET: Final = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def hasty(queue: Server) -> Iterator[GatewayProcess]:
    """A gateway with short timeouts, and a longer one for kept connections."""
    with GatewayProcess(queue, {"JITNEY_HEADER_TIMEOUT_S": "0.5", "JITNEY_KEEPALIVE_TIMEOUT_S": "1.5"}) as process:
        yield process


def test_an_idle_kept_connection_is_closed_without_an_answer(hasty: GatewayProcess) -> None:
    """It used to be closed after 5 s, which broke proxies; a longer timeout would have sent a 408."""
    with connect(hasty.port) as kept:
        kept.sendall(GET)
        assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        assert read_until_closed(kept) == (b"", True)
        assert time.monotonic() - begun > 1.2  # it was kept for longer than a head may take


def test_a_connection_that_says_nothing_at_all_is_closed_without_an_answer(hasty: GatewayProcess) -> None:
    """Browsers open connections in advance and show any response on them."""
    with connect(hasty.port) as silent:
        assert read_until_closed(silent) == (b"", True)


@pytest.mark.parametrize("before", [b"", GET])
@pytest.mark.parametrize("begun", [b"G", GET[:-2], b"\r\n"])
def test_incomplete_headers_get_a_timeout_response(hasty: GatewayProcess, before: bytes, begun: bytes) -> None:
    with connect(hasty.port) as slow:
        slow.sendall(before + begun)
        data, closed = read_until_closed(slow)
    answers = data.split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == ([b"200", b"408"] if before else [b"408"])
    assert closed


# ---- HEAD


@pytest.fixture(scope="module")
def gateway(queue: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(queue, {"JITNEY_BULK_STORE": str(tmp_path_factory.mktemp("bulk"))}) as process:
        yield process


def both(port: int, path: str) -> tuple[Received, Received]:
    """Ask by GET and by HEAD, each over a connection that serves another request behind it."""
    said = []
    for method in ("GET", "HEAD"):
        with connect(port) as connection:
            connection.settimeout(5)
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(1 << 16)
            if method == "HEAD":
                assert data.endswith(b"\r\n\r\n"), "a body came behind the head"
            said.append(Received(data.partition(b"\r\n\r\n")[0], closed=False, sent=0))
            if method == "HEAD" and b"connection: close" not in data:
                connection.sendall(GET)
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200"), "the connection is sane"
    return said[0], said[1]


def fields(head: bytes) -> dict[bytes, bytes]:
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    changing = {b"date", b"ratelimit", b"last-modified", b"etag", b"x-request-id"}
    return {name.lower(): value for name, _, value in lines if name.lower() not in changing}


PATHS: Final = (
    *("/docs", "/docs/docs.js", "/docs/swagger-ui-bundle.js"),
    *("/", "/healthz", "/readyz", "/openapi.json", "/v1/models", "/v1/jobs", "/v1/deadletters", "/v1/webhooks"),
    *("/v1/files", "/v1/batches", "/v1/jobs/{job}", "/v1/jobs/{job}/events", "/v1/events", "/v1/models/m"),
    *("/v1/jobs/00" + "0" * 32, "/nowhere", "/v1/jobs?limit=0", "/predict", "/v1/files/{file}/content"),
)


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_answered_as_get_without_a_body(gateway: GatewayProcess, worker: Worker, path: str) -> None:
    await worker.announce(gateway)
    job = gateway.submit(PNG).json()["id"] if "{job}" in path else ""
    file: Any = ""
    if "{file}" in path:
        upload = gateway.http.post("/v1/files", files={"file": b"{}"}, data={"purpose": "batch"})
        file = upload.json()["id"]
    by_get, by_head = both(gateway.port, path.format(job=job, file=file))
    assert by_head.status == by_get.status
    assert fields(by_head.data) == fields(by_get.data)
    if b"chunked" not in by_get.data:
        assert int(fields(by_head.data)[b"content-length"]) > 0


def test_head_on_a_stream_opens_no_stream(queue: Server) -> None:
    with GatewayProcess(queue, {"JITNEY_MAX_STREAMS": "2"}) as gateway:
        for _ in range(6):
            assert gateway.http.head("/v1/events").status_code == 200

        def has_room() -> bool:
            with gateway.http.stream("GET", "/v1/events") as stream:
                return stream.status_code == 200

        wait_until(has_room, "the streams are ended")


def test_head_is_allowed_wherever_get_is(gateway: GatewayProcess) -> None:
    answer = gateway.http.put("/v1/jobs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert gateway.http.head("/predict").status_code == 405
