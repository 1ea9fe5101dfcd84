"""A worker as a process of its own, on the test's queue and models folder."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.support.processes import ROOT
from tests.support.servers import Server
from tests.support.waiting import wait_until

QUICK = {"JITNEY_IDLE_POLL_S": "0.2", "JITNEY_MODELS_POLL_S": "0.2", "JITNEY_METRICS_FLUSH_S": "0.2"}


class WorkerProcess:
    """Starts on creation. Use it in a `with`."""

    def __init__(self, server: Server, models_dir: Path, env: Mapping[str, str] | None = None) -> None:
        self._log = Path(tempfile.mkstemp(prefix="jit")[1])
        settings = {
            "JITNEY_REDIS_URL": server.url,
            "JITNEY_MODELS_DIR": str(models_dir),
            "JITNEY_CPUS": "1",
            **QUICK,
            **(env or {}),
        }
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "worker"]
            environment = {**os.environ, **settings}
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def log(self) -> str:
        return self._log.read_text()

    def until(self, words: str, timeout_s: float = 30) -> None:
        """Wait until its log has these words."""
        wait_until(
            lambda: words in self.log() or self.process.poll() is not None, f"the worker says {words!r}", timeout_s
        )
        assert words in self.log(), self.log()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        self._log.unlink()
