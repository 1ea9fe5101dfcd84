"""A gateway as a process of its own, on the test's queue; the test itself is the worker."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx2

from jobs.contract.job import ClaimedJob, Outcome
from jobs.contract.lifecycle import State
from jobs.models import worker_registry
from jobs.models.worker_registry import WorkerReport
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from tests.support.documented import HOOKS
from tests.support.servers import Server
from tests.support.waiting import wait_until, wait_until_async

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG\r\n\x1a\n"  # enough for a gateway, which looks no further
X = {"name": "x", "datatype": "FP32", "shape": [4]}
CARD: dict[str, Any] = {
    "name": "m",
    "version": "1",
    "kinds": ["image", "tensors", "raw"],
    "inputs": [X],
    "raw_bytes": 16,
    "deadline_ms": None,
    "seen": 0,
}
QUICK = {"JITNEY_SWEEP_INTERVAL_S": "0.2", "JITNEY_MODEL_REFRESH_S": "0.2", "JITNEY_WAIT_RECHECK_S": "0.5"}


class GatewayProcess:
    """Starts on creation and waits until it listens. Use it in a `with`."""

    def __init__(self, server: Server, env: Mapping[str, str] | None = None) -> None:
        self.server = server
        self._log = Path(tempfile.mkstemp(prefix="jit")[1])
        settings = {"JITNEY_REDIS_URL": server.url, "JITNEY_PORT": "0", **QUICK, **(env or {})}
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "api"]
            environment = {**os.environ, **settings}
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            listens = wait_until(lambda: re.search(r"listens on \S+ port (\d+)", self.log()), "the gateway listens", 30)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.port = int(listens[1])
        url = f"http://127.0.0.1:{self.port}"
        self.http = httpx2.Client(  # certificates: 20 ms of CPU
            base_url=url, timeout=30, trust_env=False, verify=False, event_hooks=HOOKS
        )
        self.clients = [self.http]  # closed with it

    def log(self) -> str:
        return self._log.read_text()

    def submit(self, body: bytes = PNG, **headers: str) -> httpx2.Response:
        """Submit an image to the model `m`."""
        headers = {"content-type": "image/png", **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.http.post("/v1/jobs?model=m", content=body, headers=headers)

    def stop(self) -> int:
        for client in self.clients:
            client.close()
        self.process.terminate()
        return self.process.wait(timeout=15)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:  # also where the process has ended by itself
            client.close()
        if self.process.poll() is None:
            self.stop()
        self._log.unlink()


class Worker:
    """The worker's side of the queue, played by the test."""

    def __init__(self, server: Server, **settings: Any) -> None:
        self.connection = RedisClient(server.url, 5)
        self.store = JobStore(StoreSettings(redis_url=server.url, **settings), self.connection)

    async def announce(self, gateway: GatewayProcess, **card: Any) -> None:
        """Serve a model, and wait until the gateway knows."""
        card = {**CARD, **card}
        report = WorkerReport("w1", 1, "here", [f"{card['name']} {card['version']}"])
        await worker_registry.register_worker(self.connection, report, [card], 600)
        await worker_registry.notify_models_changed(self.connection)

        async def is_known() -> bool:
            gateway.http.get(f"/v1/models/{card['name']}")  # which refreshes what the gateway knows
            answer = gateway.http.get("/v1/models")
            if answer.status_code == 401:  # it has seen keys; who is ready is told to everybody
                return card["name"] in gateway.http.get("/readyz").json()["models"]
            models = answer.json()["models"]
            told = ("name", "version", "inputs")  # it may know another model of this name, of an earlier test
            return any(all(one.get(field) == card[field] for field in told) for one in models)

        await wait_until_async(is_known, "the gateway knows the model")

    async def claim(self, want: int = 32, model: str = "m", version: str = "1") -> list[ClaimedJob]:
        return (await self.store.claim(model, version, "w1", want)).jobs

    async def fail(self, jobs: list[ClaimedJob], code: str = "inference_failed") -> None:
        """End jobs as dead letters."""
        body = b'{"code":"%s","message":"the model could not run it","status":422}' % code.encode()
        await self.store.finish("w1", [Outcome(job.id, job.attempt, State.FAILED, body, dead=True) for job in jobs])

    async def succeed(self, jobs: list[ClaimedJob]) -> None:
        body = b'{"predictions":[{"label":"7","index":7,"probability":1.0}]}'
        await self.store.finish("w1", [Outcome(job.id, job.attempt, State.SUCCEEDED, body) for job in jobs])

    async def states(self) -> list[str]:
        """List the states of all jobs, newest first."""
        jobs, _ = await self.store.newest("default", 1 << 60, 100)
        return [job.state.value for job in jobs]
