"""Uploads have no time limit while data arrives; too slow ones are cut off; none is held in memory."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from jobs.bulk import files
from jobs.bulk.local_storage import LocalStorage
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from tests.support.gateways import GatewayProcess
from tests.support.servers import Server
from tests.support.waiting import check_during, wait_until

HEAD = (
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
)
FIRST = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
FILE = b'--b\r\ncontent-disposition: form-data; name="file"; filename="lines"\r\n\r\n'
LAST = b"\r\n--b--\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.fixture
def settings(tmp_path: Path) -> Mapping[str, str]:
    return {
        "JITNEY_BULK_STORE": str(tmp_path / "bulk"),
        "JITNEY_BODY_TIMEOUT_S": "0.5",
        "JITNEY_BULK_UPLOAD_RATE": "100000",
    }


@pytest.fixture
def gateway(settings: Mapping[str, str]) -> Iterator[GatewayProcess]:
    server = Server()
    with GatewayProcess(server, settings) as process:
        yield process
    server.close()


def send(gateway: GatewayProcess, block: bytes, seconds: float) -> bytes:
    """Send an upload block by block for some time; return the response."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(HEAD + chunk(FIRST + FILE))

        def more() -> None:
            try:
                connection.sendall(chunk(block))
            except OSError:
                return

        check_during(more, seconds)
        with contextlib.suppress(OSError):
            connection.sendall(chunk(LAST) + b"0\r\n\r\n")
        connection.settimeout(10)
        answer = b""
        while block := connection.recv(65536):
            answer += block
        return answer


def test_an_upload_that_makes_progress_may_take_long(gateway: GatewayProcess) -> None:
    answer = send(gateway, b"x" * 20_000, 1.5)
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(gateway.http.get("/v1/files").json()["data"]) == 1


def test_a_dripping_upload_is_cut_off_with_an_error_the_client_knows(gateway: GatewayProcess, tmp_path: Path) -> None:
    answer = send(gateway, b"x", 1.5)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"error":{"message":"the body did not arrive' in answer
    wait_until(lambda: not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing of it is left")


def test_a_large_upload_is_not_held_in_memory(gateway: GatewayProcess) -> None:
    def held_kib() -> int:
        status = Path(f"/proc/{gateway.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

    before = held_kib()
    blocks = iter([FIRST + FILE, *[b"y" * (1 << 20)] * 200, LAST])
    kind = {"content-type": "multipart/form-data; boundary=b"}
    answer = gateway.http.post("/v1/files", content=blocks, headers=kind)
    assert answer.json()["bytes"] == 200 << 20
    assert held_kib() - before < 50_000
    received = 0
    with gateway.http.stream("GET", f"/v1/files/{answer.json()['id']}/content") as download:
        for block in download.iter_bytes():
            received += len(block)
    assert received == 200 << 20
    assert held_kib() - before < 50_000


@pytest.mark.anyio
async def test_an_upload_whose_gateway_dies_leaves_nothing(gateway: GatewayProcess, tmp_path: Path) -> None:
    """Stored content without a record used to stay for ever, unlisted and uncounted."""
    folder = tmp_path / "bulk"
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(HEAD + chunk(FIRST + FILE) + chunk(b"x" * 600_000))
        wait_until(lambda: [path.stat().st_size for path in folder.rglob(".file-*")] > [0], "some of it is written")
        os.kill(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait()
    server_url = gateway.server.url
    store = JobStore(StoreSettings(redis_url=server_url), RedisClient(server_url, 5))
    try:
        now_ms = await store.connection.now_ms()
        assert await files.remove_expired(store, LocalStorage(folder), now_ms) == 0  # it might go on
        with gateway.server.client() as client:
            client.zadd("jitney:{s00}:expiring_files", {"junk": 1})
        with pytest.raises(ValueError, match="invalid literal"):  # and keeps no other
            await files.remove_expired(store, LocalStorage(folder), now_ms + 8 * 86_400_000)
        assert [path for path in folder.rglob("*") if path.is_file()] == []
        with gateway.server.client() as client:
            assert client.zrange("jitney:{s00}:expiring_files", 0, -1) == [b"junk"]
    finally:
        await store.connection.aclose()
