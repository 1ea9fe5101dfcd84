"""rq's connections follow its server when a node becomes a replica."""

import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from background.rq_pool import WORK_KINDS, RqPool
from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.redis_url import RedisAddress
from jobs.store.background_lease import BackgroundLease
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until


class Moving:
    """Two servers, an address that is read from a file, and an rq pool that uses it."""

    def __init__(self, folder: Path) -> None:
        self.old, self.new = Server(port=free_port()), Server(port=free_port())
        self.file = folder / "url"
        self.file.write_text(f"redis://127.0.0.1:{self.old.port}/0")
        self.carried: queue.SimpleQueue[str] = queue.SimpleQueue()
        run_attempt = dict.fromkeys(WORK_KINDS, self._carry)
        self.rq_pool = RqPool(RedisAddress("", self.file), 1, run_attempt, lambda: None, is_queue=False)

    def _carry(self, lease: BackgroundLease) -> None:
        self.carried.put(lease.delivery)

    def demote_old(self) -> None:
        with self.old.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", str(self.new.port))

    def send(self, name: str) -> str:
        """Dispatch one lease, and wait until a thread has processed it."""
        self.rq_pool.put("fast", [BackgroundLease(name, 1)])
        return self.carried.get(timeout=30)

    def close(self) -> None:
        self.rq_pool.close()
        self.old.close()
        self.new.close()


@pytest.fixture
def moving(tmp_path: Path) -> Iterator[Moving]:
    moving = Moving(tmp_path)
    moving.rq_pool.start({"fast": 1})
    yield moving
    moving.close()


def test_the_url_file_is_read_again(moving: Moving) -> None:
    """The file names another server now; the old one is alive, and a replica."""
    assert moving.send("before") == "before"
    moving.file.write_text(f"redis://127.0.0.1:{moving.new.port}/0")
    moving.demote_old()
    with pytest.raises(StoreUnavailable, match="READONLY"):
        moving.rq_pool.put("fast", [BackgroundLease("refused", 1)])
    assert moving.send("after") == "after"


@pytest.mark.parametrize("call", ["reopen", "close"])
def test_a_thread_closes_its_socket_itself(moving: Moving, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The file descriptor of a socket that another thread closes can become that of a new socket."""
    assert moving.send("before") == "before"
    pool = moving.rq_pool._blocking.connection_pool  # a field for rq and redis-py, which have no public one

    def blocked() -> socket.socket | None:
        """Return the socket of the thread once it does nothing but wait for a job."""
        with moving.old.client() as client:
            waits = any(other["cmd"] in {"blmove", "blpop"} for other in client.client_list())
        sockets = [found._sock for found in tuple(pool._in_use_connections)]
        return sockets[0] if waits and len(sockets) == 1 else None

    used = wait_until(blocked, "the thread waits for a job")
    closed_by: queue.SimpleQueue[str] = queue.SimpleQueue()
    close = socket.socket.close

    def note_and_close(closed: socket.socket) -> None:
        if closed is used:
            closed_by.put(threading.current_thread().name)
        close(closed)

    monkeypatch.setattr(socket.socket, "close", note_and_close)
    getattr(moving.rq_pool, call)()
    assert closed_by.get(timeout=30) == "fast-0"


def test_an_unreachable_server_is_logged_once_with_its_address(
    moving: Moving, caplog: pytest.LogCaptureFixture
) -> None:
    moving.old.kill()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            moving.rq_pool.queued("fast")
    (said,) = [record.message for record in caplog.records if record.name == "jitney.background"]
    assert said.startswith(f"cannot use rq's server at redis://127.0.0.1:{moving.old.port}/0 (from {moving.file})")
