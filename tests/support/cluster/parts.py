"""The processes of a cluster, each with its own connection to the queue: start, stop, freeze and kill."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx2

from tests.support.cluster.proxy import Proxy
from tests.support.processes import is_running
from tests.support.service import QUICK, ROOT
from tests.support.waiting import wait_until


class ManagedProcess:
    """A Jitney process that reaches the queue only through `proxy`."""

    def __init__(self, name: str, command: tuple[str, ...], env: Mapping[str, str], folder: Path, proxy: Proxy) -> None:
        self.name, self.proxy = name, proxy
        self.command = (sys.executable, "-m", *command)
        self.log_file = folder / f"{name}.log"
        clean = {
            key: value
            for key, value in os.environ.items()
            if key not in {"JITNEY_PORT", "JITNEY_SERVE_MODELS", "JITNEY_DEFAULT_MODEL"}
        }
        self._env = {**clean, **QUICK, **env, "JITNEY_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"}
        self.started: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The pid of the working process; 0 while there is none."""
        return self.started.pid if self.started is not None and self.started.poll() is None else 0

    def start(self, env: Mapping[str, str] | None = None) -> None:
        """Start it, with more settings."""
        with self.log_file.open("ab") as log:
            self.started = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**self._env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """Its log so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def kill(self) -> int:
        """Kill it like a crash; return the old pid."""
        pid = self.pid
        if pid:
            os.kill(pid, signal.SIGKILL)
            self._reap(pid)
            wait_until(lambda: not is_running(pid), f"{self.name} is gone")
        return pid

    def freeze(self) -> int:
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        return pid

    def thaw(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> int:
        """Stop it like a service manager; return the exit code."""
        if self.started is None or self.started.poll() is not None:
            return 0
        self.started.terminate()
        return self.started.wait(20)

    def close(self) -> None:
        """Remove everything it left behind."""
        if self.started is None:
            return
        self.thaw()
        try:
            self.terminate()
        except subprocess.TimeoutExpired:
            self.kill()
            self.started.kill()
            self.started.wait()

    def _reap(self, pid: int) -> None:
        """Reap it if it is a child of this process."""
        if self.started is not None and self.started.pid == pid:
            self.started.wait(10)


class GatewayAddress:
    """An endpoint for callers: a gateway, or a proxy in front of one."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, timeout_s: float = 30) -> httpx2.Client:
        """A caller that uses only this endpoint."""
        # An idle connection is let go well before the gateway closes it, or one might be used in that very moment.
        limits = httpx2.Limits(keepalive_expiry=2)
        return httpx2.Client(base_url=self.url, timeout=timeout_s, trust_env=False, verify=False, limits=limits)


class ManagedGateway(ManagedProcess, GatewayAddress):
    """A gateway; restarts on its first port."""

    def __init__(self, name: str, env: Mapping[str, str], folder: Path, proxy: Proxy) -> None:
        ManagedProcess.__init__(self, name, ("api",), env, folder, proxy)
        self.port = 0

    def start(self, env: Mapping[str, str] | None = None) -> None:
        said = len(self.log())
        super().start({**(env or {}), "JITNEY_PORT": str(self.port)})
        found = wait_until(lambda: self._port(said), f"{self.name} listens; its log: {self.log_file}", 30)
        self.port = found

    def _port(self, said: int) -> int:
        found = re.findall(r"listens on \S+ port (\d+)", self.log()[said:])
        assert found or self.pid, f"{self.name} ended: {self.log()[said:]}"
        return int(found[-1]) if found else 0


class ManagedWorker(ManagedProcess):
    """A worker as a user starts it: `jitney worker`, whose process, or whose child, is `python -m worker`."""

    def __init__(self, name: str, env: Mapping[str, str], folder: Path, proxy: Proxy) -> None:
        super().__init__(name, ("cli.main", "worker"), env, folder, proxy)
        self._is_supervised = False

    @property
    def pid(self) -> int:
        top = super().pid
        found = [child for child in children_of(top) if b"worker" in arguments_of(child)] if top else []
        if found:
            self._is_supervised = True
            return found[0]
        return 0 if self._is_supervised else top

    def start(self, env: Mapping[str, str] | None = None) -> None:
        self._is_supervised = False
        super().start(env)


def children_of(pid: int) -> list[int]:
    """The children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def arguments_of(pid: int) -> list[bytes]:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def open_files(pid: int) -> int:
    """The number of open files of a process; 0 if there is no such process."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


def resident_mib(pid: int) -> float:
    """The resident memory of a process; 0 if there is no such process."""
    return status_kib(pid, "VmRSS") / 1024


def status_kib(pid: int, what: str) -> int:
    """A field of the kernel's memory status of a process; 0 if there is no such process."""
    try:
        found = re.search(rf"^{what}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
