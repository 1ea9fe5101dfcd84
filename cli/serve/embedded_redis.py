"""The Redis or Valkey server that `jitney up` runs: append-only, on a Unix socket, in a locked data folder.

`cli.serve.redis_binary` chooses the binary.
"""

import fcntl
import os
import shutil
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from cli.serve import redis_binary
from cli.serve.child_process import ChildProcess, last_lines
from cli.serve.start_errors import BadSetting, CannotStart, print_line

SOCKET_PATH_BYTES = 100  # the limit of the system is 107 (Linux) or 103 (macOS)
ANSWER_TIMEOUT_S = 20.0
LOAD_TIMEOUT_S = 600.0
LOADING_NOTICE_DELAY_S = 1.0
LEFTOVER_STOP_TIMEOUT_S = 10.0


class EmbeddedRedis:
    """Holds the locks of a data folder until `close`; `child` is the server process to supervise.

    Both locks end with the processes that hold them. `jitney.lock` belongs to this process; the server inherits
    `server.lock`, so that a server that outlived its supervisor is detected.
    """

    def __init__(self, data_dir: Path) -> None:
        """Lock the folder. Raises CannotStart: no server installed, folder in use or read-only, incompatible data."""
        self._dir = data_dir.resolve()
        self._pin_file = self._dir / "engine"
        self._polling_since: float | None = None
        self._has_logged_loading = False
        self._resources = ExitStack()
        with ExitStack() as on_failure:
            on_failure.callback(self._resources.close)
            try:
                self._lock_folder(data_dir)
            except OSError as error:
                reason = f"the data folder {data_dir} cannot be used: {error} (JITNEY_DATA_DIR sets it)"
                raise BadSetting(reason) from error
            on_failure.pop_all()

    def _lock_folder(self, data_dir: Path) -> None:
        (self._dir / "queue").mkdir(mode=0o700, parents=True, exist_ok=True)
        own_lock = self._lock("jitney.lock")
        if own_lock is None:
            pid = (self._dir / "jitney.lock").read_text("utf-8") or "unknown"
            raise CannotStart(
                f"the data folder {data_dir} is in use by another jitney (pid {pid}): "
                "stop it, or set JITNEY_DATA_DIR to another folder"
            )
        _write(own_lock, str(os.getpid()))
        self._server_lock = self._lock_after_leftover()
        self.engine = self._choose_engine()
        self.socket_path = self._place_socket()
        _write(self._server_lock, str(self.socket_path))

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket_path))}"

    @property
    def child(self) -> ChildProcess:
        return ChildProcess(
            name=self.engine.family,
            command=self._command(),
            # With an uninstalled locale, which ssh may forward, Redis >= 7.2 and Valkey < 9.1 exit at once.
            env={**os.environ, "LC_ALL": "C", **self._preload()},
            pass_fds=(self._server_lock,),
            stop_s=2.0,
            log=self._dir / "server.log",
            is_ready=self.is_ready,
        )

    def _preload(self) -> dict[str, str]:
        """Return the variable that gives a server built with the allocator of libc jemalloc, if it is installed.

        jemalloc saves such a server a quarter of its CPU time (docs/explanation/performance.md).
        """
        if self.engine.allocator != "libc" or "LD_PRELOAD" in os.environ:
            return {}
        library = redis_binary.find_jemalloc()
        return {"LD_PRELOAD": str(library)} if library else {}

    def _command(self) -> tuple[str, ...]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self._dir / "queue"),
            "pidfile": str(self._dir / "server.pid"),
            "logfile": str(self._dir / "server.log"),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            # Most data is short-lived: a rewrite of the file at the default 64 MB would cost more than it saves.
            "auto-aof-rewrite-min-size": "256mb",
            # Inputs and outputs hardly compress.
            "rdbcompression": "no",
            # The record of a job with a small input takes one allocation: 4 % less CPU time of the server.
            "hash-max-listpack-value": "4096",
            "maxmemory-policy": "noeviction",
        }
        return (str(self.engine.path), *(part for name, value in options.items() for part in (f"--{name}", value)))

    def is_ready(self) -> bool:
        """Return whether the server answers. Raises CannotStart after 20 s, or 600 s while it loads its data."""
        now = time.monotonic()
        self._polling_since = self._polling_since or now
        waited_s = now - self._polling_since
        reply = _send_command(self.socket_path, "PING")
        if reply.startswith("+PONG"):
            redis_binary.write_pin(self._pin_file, self.engine)
            return True
        is_loading = reply.startswith("-LOADING")
        if is_loading and not self._has_logged_loading and waited_s >= LOADING_NOTICE_DELAY_S:
            self._has_logged_loading = True
            print_line(f"{self.engine} is loading the queue from {self._dir / 'queue'}")
        limit_s = LOAD_TIMEOUT_S if is_loading else ANSWER_TIMEOUT_S
        if waited_s > limit_s:
            log = last_lines(self._dir / "server.log")
            raise CannotStart(f"{self.engine} did not answer within {limit_s:g} s of its start{log}")
        return False

    def close(self) -> None:
        """Release the folder; the server must have ended."""
        self._resources.close()

    def _lock(self, name: str) -> int | None:
        fd = os.open(self._dir / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        self._resources.callback(os.close, fd)
        return fd

    def _lock_after_leftover(self) -> int:
        """Return the server lock; first shut down a server that outlived its supervisor. Raises CannotStart."""
        deadline = time.monotonic() + LEFTOVER_STOP_TIMEOUT_S
        while (fd := self._lock("server.lock")) is None:
            if time.monotonic() > deadline:
                raise CannotStart(f"a server of an earlier run still uses {self._dir}: stop the process in server.pid")
            _send_command(Path((self._dir / "server.lock").read_text("utf-8")), "SHUTDOWN")
            time.sleep(0.05)
        stale = Path(os.pread(fd, 4096, 0).decode())
        if stale.parent.name.startswith("jitney-") and stale.parent != self._dir:
            shutil.rmtree(stale.parent, ignore_errors=True)  # the socket folder of a killed run
        return fd

    def _choose_engine(self) -> redis_binary.RedisEngine:
        pinned = redis_binary.read_pin(self._pin_file)
        installed = redis_binary.find_engines()
        if pinned and (same := redis_binary.probe_engine(pinned.path)):
            installed.insert(0, same)
        chosen = redis_binary.choose_engine(pinned, installed)
        if pinned and pinned.family != chosen.family:
            print_line(f"the queue in {self._dir} was written by {pinned} and is now served by {chosen}")
        return chosen

    def _place_socket(self) -> Path:
        path = self._dir / "server.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            return path
        roots = [tempfile.gettempdir(), "/tmp"]  # noqa: S108 - mkdtemp creates a private folder in it
        short = Path(tempfile.mkdtemp(prefix="jitney-", dir=min(roots, key=len)))
        self._resources.callback(shutil.rmtree, short, ignore_errors=True)
        return short / "server.sock"


def _write(fd: int, text: str) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, text.encode(), 0)


def _send_command(path: Path, command: str) -> str:
    """Send one inline command and return the reply; empty if unreachable. Avoids the 0.2 s import of redis-py."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(256).decode(errors="replace")
        except OSError:
            return ""
