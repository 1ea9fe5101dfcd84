"""The gRPC server as a process: start, shutdown, several processes on one port, slow messages, and no cost when off."""

import asyncio
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from grpc import StatusCode

from api.grpc_server.generated import open_inference_pb2 as pb
from cli.serve import gateway_processes
from cli.serve.start_errors import BadSetting
from tests.support.gateways import ROOT, GatewayProcess, Worker
from tests.support.grpc_calls import CARD, GrpcGateway, connected, double, error_of, request, until_states, values
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until, wait_until_async

EX_CONFIG = 78


@pytest.fixture
async def announcing(queue: Server, anyio_backend: str) -> AsyncIterator[Worker]:
    """Play the worker of an empty queue, for gateways of the test's own."""
    del anyio_backend
    with queue.client() as client:
        client.flushall()
    worker = Worker(queue)
    yield worker
    await worker.connection.aclose()


async def test_shutdown_ends_calls_and_streams(queue: Server, announcing: Worker) -> None:
    with GrpcGateway(queue) as gateway:
        await announcing.announce(gateway, **CARD)
        async with connected(gateway.grpc_port) as stub:
            stream = stub.ModelStreamInfer()
            await stream.write(request(id="s"))
            await double(announcing)
            assert (await stream.read()).infer_response.id == "s"
            call = asyncio.ensure_future(error_of(stub.ModelInfer(request())))
            await until_states(announcing, "queued", "succeeded")
            gateway.process.terminate()
            error = await call
            assert error.code() == StatusCode.UNAVAILABLE, error
            error = await error_of(stream.read())
            assert error.code() == StatusCode.UNAVAILABLE, error
            assert gateway.process.wait(timeout=10) == -signal.SIGTERM
            await until_states(announcing, "canceled", "succeeded")
        assert "Traceback" not in gateway.log(), gateway.log()


async def test_a_lame_duck_serves_and_is_not_ready(queue: Server, announcing: Worker) -> None:
    with GrpcGateway(queue, {"JITNEY_LAME_DUCK_S": "20"}) as gateway:
        await announcing.announce(gateway, **CARD)
        async with connected(gateway.grpc_port) as stub:
            assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
            gateway.process.terminate()

            async def has_left() -> bool:
                return not (await stub.ServerReady(pb.ServerReadyRequest())).ready

            await wait_until_async(has_left, "the gateway is not ready")
            answer, _ = await asyncio.gather(stub.ModelInfer(request()), double(announcing))
            assert values(answer) == [[0.0, 2.0, 4.0, 6.0]]
            gateway.process.terminate()
            assert gateway.process.wait(timeout=10) == -signal.SIGTERM


async def test_processes_share_a_port(queue: Server, tmp_path: Path, anyio_backend: str) -> None:
    del anyio_backend
    port, log = free_port(), tmp_path / "log"
    env = {**os.environ, "JITNEY_REDIS_URL": queue.url, "JITNEY_PORT": "0", "JITNEY_GRPC_PORT": str(port)}
    with log.open("wb") as output:
        command = [sys.executable, "-m", "cli.main", "api", "--workers", "2"]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)  # noqa: ASYNC220
    try:
        wait_until(lambda: "2 gateways answer" in log.read_text(), "both gateways answer", 30)
        assert len(re.findall(rf"serves gRPC on \S+ port {port}", log.read_text())) == 2
        owners = [_listens(pid, port) for pid in _children(process.pid)]
        assert owners == [True, True]
        for _ in range(8):
            async with connected(port) as stub:
                assert (await stub.ServerLive(pb.ServerLiveRequest(), timeout=10)).live
        other = {**env, "JITNEY_PORT": "0"}
        second = subprocess.run(  # noqa: ASYNC221
            [*command[:4], "--workers", "2"],
            cwd=ROOT,
            env=other,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert second.returncode != 0
        assert f"JITNEY_GRPC_PORT={port}" in second.stderr
    finally:
        process.terminate()
        process.wait(timeout=15)


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True).stdout
    return [int(each) for each in found.split()]


def _listens(pid: int, port: int) -> bool:
    """Whether a process has a socket that listens on a port."""
    tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    listed = [line.split() for line in tables.splitlines() if ":" in line]
    inodes = {line[9] for line in listed if len(line) > 9 and line[3] == "0A" and line[1].endswith(f":{port:04X}")}
    links = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    return any(f"socket:[{inode}]" in links for inode in inodes)


def _start_error(queue: Server, **env: str) -> str:
    """What a gateway that cannot start says."""
    settings = {**os.environ, "JITNEY_REDIS_URL": queue.url, "JITNEY_PORT": "0", **env}
    done = subprocess.run(
        [sys.executable, "-m", "api"], cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == EX_CONFIG, done
    return done.stderr


def test_what_keeps_a_gateway_from_serving_grpc(queue: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grpc.py").write_text("raise ModuleNotFoundError('No module named grpc', name='grpc')")
    said = _start_error(queue, JITNEY_GRPC_PORT="9", PYTHONPATH=str(tmp_path))
    assert "needs the extra grpc (grpc is missing)" in said
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"JITNEY_GRPC_PORT={port}" in _start_error(queue, JITNEY_GRPC_PORT=str(port))
    with pytest.raises(BadSetting, match="JITNEY_GRPC_PORT=x is not a port"):
        gateway_processes.Settings.from_env({"JITNEY_GRPC_PORT": "x"})
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(BadSetting, match=r'needs grpc, grpc_health, grpc_reflection: pip install -e "\.\[grpc\]"'):
        gateway_processes.Settings.from_env({"JITNEY_GRPC_PORT": "1"})


def test_nothing_of_grpc_is_loaded_when_it_is_off(queue: Server) -> None:
    with GatewayProcess(queue) as gateway:
        assert gateway.http.get("/healthz").status_code == 200
        assert "cygrpc" not in Path(f"/proc/{gateway.process.pid}/maps").read_text()


# ---- HTTP/2 by hand: a message of which only a part is sent

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS = 0, 1, 3, 4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _field(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


_HEAD = b"".join(
    _field(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
)


def _begin_messages(connection: socket.socket, count: int, size: int) -> None:
    """Begin this number of calls, each with the first bytes of a message."""
    start = b"\x00" + struct.pack(">I", size) + bytes(1000)
    calls = [_frame(_HEADERS, 4, 2 * at + 1, _HEAD) + _frame(_DATA, 0, 2 * at + 1, start) for at in range(count)]
    connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + b"".join(calls))


def _read_ends(connection: socket.socket, count: int) -> list[bytes]:
    """Return the last header blocks of this number of calls."""
    data, ends = b"", list[bytes]()
    while len(ends) < count:
        data += connection.recv(65536) or pytest.fail(f"the connection ended after {ends}")
        while len(data) >= 9 and len(data) >= (size := 9 + int.from_bytes(data[:3], "big")):
            kind, flags = data[3], data[4]
            if kind == _HEADERS and flags & 1:
                ends.append(data[9:size])
            data = data[size:]
    return ends


def test_messages_that_do_not_arrive(queue: Server) -> None:
    """The memory of a slow message counts as that of the largest; it ends after the time for bodies."""
    limits = {"JITNEY_MAX_BODY_BYTES": str(1 << 20), "JITNEY_MAX_BUFFERED_BODY_BYTES": str(4 << 20)}
    with (
        GrpcGateway(queue, {**limits, "JITNEY_BODY_TIMEOUT_S": "2.5"}) as gateway,
        closing(socket.create_connection(("127.0.0.1", gateway.grpc_port), timeout=10)) as connection,
    ):
        _begin_messages(connection, 8, 1 << 20)
        refused = _read_ends(connection, 5)
        assert all(b"queue_full" in end for end in refused), refused
        late = _read_ends(connection, 3)
        assert all(b"request_timeout" in end for end in late), late
