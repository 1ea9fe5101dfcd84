"""The line that says Jitney is ready: it never blocks, and a delay is explained."""

import socket
from collections.abc import Iterator

import pytest

from cli.serve import ready_line
from cli.serve.ready_line import ReadyLine
from tests.support.waiting import wait_until


@pytest.fixture
def gateway() -> Iterator[socket.socket]:
    """A listening socket that no process serves yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def answer(gateway: socket.socket, text: str) -> None:
    connection, _ = gateway.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(f"HTTP/1.1 {text}".encode())


def test_a_probe_in_the_backlog_is_answered_later(gateway: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    line = ReadyLine("0.0.0.0", gateway.getsockname()[1], 0.0)
    assert [line.tick() for _ in range(3)] == [True, True, True]
    answer(gateway, "200 OK\r\nContent-Length: 2\r\n\r\nok")
    wait_until(lambda: not line.tick(), "the answer is seen")
    assert f": http://127.0.0.1:{gateway.getsockname()[1]}\n" in capsys.readouterr().out


def test_the_reason_of_an_unready_gateway_is_printed(
    gateway: socket.socket, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready_line, "REASON_INTERVAL_S", 0.0)
    line = ReadyLine("127.0.0.1", gateway.getsockname()[1], 0.0)
    assert line.tick()
    answer(gateway, "503 Service Unavailable\r\nContent-Length: 18\r\n\r\nno model is loaded")
    why = "jitney: not ready yet: /readyz returned 503: no model is loaded\n"
    wait_until(lambda: line.tick() and why in capsys.readouterr().err, "the reason is told")
    line.close()


def test_the_probe_gives_up_but_stops_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready_line, "POLL_TIMEOUT_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert not ReadyLine("127.0.0.1", port, 0.0).tick()
    assert "not ready after 0 s: the gateway does not answer" in capsys.readouterr().err


def test_an_ipv6_host_is_printed_as_a_url() -> None:
    assert ReadyLine("::", 80, 0.0).url == "http://[::1]:80"
