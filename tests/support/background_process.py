"""`jitney background` as a process of its own, with a schedule in fractions of seconds."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.support.servers import Server
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
ALLOW = {"JITNEY_WEBHOOK_ALLOW_CIDRS": "127.0.0.1/32"}
QUICK = {
    **ALLOW,
    "JITNEY_WEBHOOK_SCHEDULE": "0,0.2,0.4,0.4",
    "JITNEY_WEBHOOK_TIMEOUT_S": "1",
    "JITNEY_WEBHOOK_SLOW_S": "0.8",
    "JITNEY_WEBHOOK_LEASE_S": "2",
    "JITNEY_WEBHOOK_POLL_S": "0.1",
}


class BackgroundProcess:
    """Starts on creation and waits until it delivers. Use it in a `with`."""

    def __init__(self, server: Server, env: Mapping[str, str] | None = None) -> None:
        self.server, self._env = server, {**QUICK, **(env or {})}
        self._log = Path(tempfile.mkstemp(prefix="jit")[1])
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        self._log.write_bytes(b"")
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "background"]
            environment = {**os.environ, "JITNEY_REDIS_URL": self.server.url, "PYTHONFAULTHANDLER": "1", **self._env}
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        wait_until(lambda: "delivering webhooks" in self.log() or self.process.poll() is not None, "it delivers", 30)

    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        """Kill it like a crash."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"it does not stop; what its threads did: {self.log()}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        self._log.unlink()
