"""Raw socket helpers for malformed traffic, and readings of a process's memory and descriptors."""

import os
import resource
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HOST = "127.0.0.1"
TICKS = os.sysconf("SC_CLK_TCK")


class Received(NamedTuple):
    """The received bytes and whether the peer closed; `sent` bytes were accepted by it."""

    data: bytes
    closed: bool
    sent: int

    @property
    def status(self) -> int:
        return int(self.data[9:12]) if self.data.startswith(b"HTTP/1.1 ") else 0


def connect(port: int, timeout_s: float = 10) -> socket.socket:
    return socket.create_connection((HOST, port), timeout_s)


def send_and_read(port: int, chunks: Iterable[bytes] | bytes, timeout_s: float = 10) -> Received:
    """Send until refused, then read until the peer closes or is silent for the given time."""
    sent = 0
    with connect(port, timeout_s) as connection:
        try:
            for chunk in [chunks] if isinstance(chunks, bytes) else chunks:
                connection.sendall(chunk)
                sent += len(chunk)
        except OSError:  # closed before it had all
            pass
        return Received(*read_until_closed(connection), sent)


def read_until_closed(connection: socket.socket) -> tuple[bytes, bool]:
    """Read until the peer closes or the connection's timeout passes; return whether it closed."""
    heard = b""
    try:
        while data := connection.recv(1 << 16):
            heard += data
    except TimeoutError:
        return heard, False
    except OSError:
        pass
    return heard, True


def post(path: str, *headers: str, body: bytes = b"") -> bytes:
    """Write a POST with exactly these header fields."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def rss_bytes(pid: int) -> int:
    """Return the current memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / TICKS


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def time_first_byte(port: int, request: bytes) -> float:
    """Seconds from a new connection's request to the first byte of its answer."""
    begun = time.perf_counter()
    with connect(port) as connection:
        connection.sendall(request)
        assert connection.recv(1)
    return time.perf_counter() - begun
