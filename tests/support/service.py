"""A whole Jitney as a user starts it, `jitney up`, on a free port and with its own queue."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.support.documented import HOOKS
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
DIGITS = sorted((ROOT / "samples" / "digits").glob("*.png"))

# The same code, faster: nobody wants to wait for a lease of 20 s in a test.
QUICK = {
    "JITNEY_LEASE_S": "2",
    "JITNEY_HEARTBEAT_S": "0.5",
    "JITNEY_SWEEP_INTERVAL_S": "0.5",
    "JITNEY_METRICS_FLUSH_S": "0.1",
    "JITNEY_IDLE_POLL_S": "0.5",
    "JITNEY_MODEL_REFRESH_S": "0.5",
}


class Service:
    """Starts on creation and waits until `url` serves a model. Use it in a `with`."""

    def __init__(
        self, models_dir: Path = ROOT / "models", env: Mapping[str, str] | None = None, *, ready: bool = True
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="jit"))
        self._env = {
            **os.environ,
            "JITNEY_MODELS_DIR": str(models_dir),
            "JITNEY_DATA_DIR": str(self.folder / "data"),
            **QUICK,
            **(env or {}),
        }
        self._env = {
            name: value for name, value in self._env.items() if name != "JITNEY_REDIS_URL" or name in (env or {})
        }
        self._log, self.out = self.folder / "log", self.folder / "out"
        self.port = "0"
        self.start(ready=ready)

    def start(self, *, ready: bool = True) -> None:
        """Start it, again on the same port and data."""
        with self._log.open("ab") as log, self.out.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "up"],
                cwd=ROOT,
                env={**self._env, "JITNEY_PORT": self.port},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )
        try:
            wait_until(lambda: self._ports() or self.process.poll() is not None, "the gateway listens", 30)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.port = (self._ports() or ["0"])[-1]  # 0: it gave up before
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx2.Client(base_url=self.url, timeout=30, trust_env=False, verify=False, event_hooks=HOOKS)
        if ready:
            wait_until(self.serves, f"a model is served; the log: {self.log()}", 30)

    def _ports(self) -> list[str]:
        return re.findall(r"listens on \S+ port (\d+)", self.log())

    def log(self) -> str:
        """The log of all parts so far."""
        return self._log.read_text()

    def pid(self, part: str) -> int:
        """Find the process of a part: api, worker, background or server."""
        listed = subprocess.run(["ps", "-ewwo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
        commands = {"api": "-m api", "worker": "-m worker --journal", "background": "-m background"}
        wanted = {**commands, "server": str(self.folder)}[part]
        for line in listed.splitlines()[1:]:
            pid, parent, args = line.split(maxsplit=2)
            if int(parent) == self.process.pid and wanted in args:
                return int(pid)
        return 0

    def kill(self, part: str) -> None:
        """Kill a part like a crash, and wait until a new process replaces it."""
        before = wait_until(lambda: self.pid(part), f"{part} runs")
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: self.pid(part) not in {0, before}, f"another {part} runs")

    def predict(self, image: Path) -> httpx2.Response:
        return self.http.post("/predict", files={"image": (image.name, image.read_bytes())})

    def submit(self, body: bytes, content_type: str = "image/png", wait: int = 0, **query: str) -> httpx2.Response:
        prefer = {"prefer": f"wait={wait}"} if wait else {}
        return self.http.post("/v1/jobs", content=body, params=query, headers={"content-type": content_type, **prefer})

    def final(self, job_id: str, timeout_s: int = 20) -> dict[str, Any]:
        """Wait for a job's end."""
        job: dict[str, Any] = self.http.get(f"/v1/jobs/{job_id}", params={"wait": timeout_s}).json()
        assert job["status"] not in {"queued", "running"}, job
        return job

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it like Ctrl-C or a service manager; return the exit code."""
        self.http.close()
        self.process.send_signal(number)
        return self.process.wait(timeout=15)

    def serves(self) -> bool:
        """Whether a live worker serves a model."""
        try:
            answer = self.http.get("/readyz")
        except httpx2.HTTPError:
            return False
        return answer.status_code == 200 and "ready" in answer.json()["models"].values()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
