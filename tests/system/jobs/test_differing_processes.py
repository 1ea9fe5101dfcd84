"""Processes with differing settings or model files: no job is lost, run twice or answered wrongly.

The rows: JITNEY_SHARDS=4 at the gateway and 1 at the worker left 28 of 40 jobs hanging; with another JITNEY_LEASE_S
every job ran twice; the
same version with other files on two hosts failed 158 of 200 jobs.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import models
from tests.support.gateways import GatewayProcess
from tests.support.model_files import engines
from tests.support.processes import ROOT
from tests.support.servers import Server
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

# An engine that runs for as many seconds as its input says.
SLOW = """
import threading
import numpy as np
from jitney import TensorSpec

class Slow:
    def __init__(self, version, spec, gpu):
        self.inputs, self.outputs = [TensorSpec("n", "INT64", (1,))], [TensorSpec("y", "INT64", (1,))]
        self.provider, self.device, self.runtime, self.batchable = "cpu", "none", "1", False

    def run(self, arrays, stop):
        threading.Event().wait(float(arrays["n"].max()))
        return {"y": arrays["n"]}
"""


@pytest.fixture
def queue() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def ask(gateway: GatewayProcess, model: str, name: str, datatype: str, data: list[float]) -> dict[str, Any]:
    """Run a job, and return it once it is final."""
    tensor = {"datatype": datatype, "shape": [len(data)], "data": data}
    body = {"model": model, "input": {"tensors": {name: tensor}}}
    job: dict[str, Any] = gateway.http.post("/v1/jobs", json=body, headers={"prefer": "wait=30"}).json()
    return job


def served(gateway: GatewayProcess, model: str) -> None:
    wait_until(lambda: gateway.http.get(f"/readyz/models/{model}").status_code == 200, f"{model} is served", 30)


def test_a_differing_number_of_shards_is_refused_at_the_start_and_both_are_named(queue: Server, tmp_path: Path) -> None:
    models.doubling(tmp_path)
    with GatewayProcess(queue, {"JITNEY_SHARDS": "4"}):
        env = {
            **os.environ,
            "JITNEY_REDIS_URL": queue.url,
            "JITNEY_MODELS_DIR": str(tmp_path),
            "JITNEY_PORT": "0",
            "JITNEY_SHARDS": "1",
        }
        how: dict[str, Any] = {"cwd": ROOT, "env": env, "stderr": subprocess.PIPE, "text": True}
        parts = ("worker", "api", "background")
        started = [subprocess.Popen([sys.executable, "-m", part], **how) for part in parts]
        try:
            said = [process.communicate(timeout=30)[1] for process in started]
        finally:
            for process in started:
                process.kill()
                process.wait()
        for part, process, text in zip(parts, started, said, strict=True):
            assert process.returncode == 78, part
            assert "JITNEY_SHARDS=1, but this queue uses JITNEY_SHARDS=4" in text
            assert "Traceback" not in text


def test_a_differing_number_of_shards_is_found_when_the_queue_is_back(queue: Server) -> None:
    """A gateway may start while the queue is away; it accepts no job before the comparison, and then stops."""
    queue.kill()
    with GatewayProcess(queue, {"JITNEY_SHARDS": "1"}) as late:
        queue.start()
        with queue.client() as client:
            client.hset("jitney:agreement", "shards", 4)
        assert late.process.wait(20) == 78
        assert "JITNEY_SHARDS=1, but this queue uses JITNEY_SHARDS=4" in late.log()
        assert "Traceback" not in late.log()


@pytest.mark.parametrize(("of_gateway", "of_worker"), [("1", "20"), ("20", "2")])
def test_each_job_runs_once_with_differing_lease_settings(
    queue: Server, tmp_path: Path, of_gateway: str, of_worker: str
) -> None:
    """JITNEY_HEARTBEAT_S keeps its default of 5 s: a worker renews in time for any lease."""
    folder = engines.numpy_model(tmp_path, "slow", 'task = "tensor"\nengine = "own.py:Slow"', SLOW)
    assert folder.is_dir()
    with (
        GatewayProcess(queue, {"JITNEY_LEASE_S": of_gateway}) as gateway,
        WorkerProcess(queue, tmp_path, {"JITNEY_LEASE_S": of_worker}),
        ThreadPoolExecutor(3) as pool,
    ):
        served(gateway, "slow")
        jobs = list(pool.map(lambda _: ask(gateway, "slow", "n", "INT64", [2]), range(3)))
        assert [(job["status"], job["attempts"]) for job in jobs] == [("succeeded", 1)] * 3
        counts = gateway.http.get("/metrics").text
        assert "jitney_jobs_reclaimed_total{" not in counts
        assert "jitney_late_results_total{" not in counts


def test_one_of_two_workers_with_differing_files_of_a_version_serves_it(queue: Server, tmp_path: Path) -> None:
    models.times(tmp_path / "a", 1, factor=2)
    models.times(tmp_path / "b", 1, factor=3)
    models.doubling(tmp_path / "b", "other")
    with GatewayProcess(queue) as gateway, WorkerProcess(queue, tmp_path / "a", {"JITNEY_HEARTBEAT_S": "0.3"}) as first:
        served(gateway, "times")
        with (
            WorkerProcess(queue, tmp_path / "b", {"JITNEY_HEARTBEAT_S": "0.3"}) as second,
            ThreadPoolExecutor(8) as pool,
        ):
            second.until("model times version 1 is not served by this worker")
            served(gateway, "other")  # its other models are
            jobs = list(pool.map(lambda _: ask(gateway, "times", "x", "FP32", [1, 1, 1, 1]), range(200)))
            assert {job["status"] for job in jobs} == {"succeeded"}
            assert {job["output"]["tensors"]["y"]["data"][0] for job in jobs} == {2}
            wait_until(lambda: gateway.http.get("/readyz").json()["warnings"], "it is told")
            (warning,) = gateway.http.get("/readyz").json()["warnings"]
            assert (warning["code"], warning["what"]) == ("model_differs", "files of model times 1")
            assert [one["served"] for one in warning["values"]].count(True) == 1
            entry = gateway.http.get("/v1/models/times").json()
            assert "differ from those served" in str(entry) or entry["versions"][0]["status"] == "ready"
            # The operator's way out: once nobody has the first files any more, the others are served.
            first.stop()
            wait_until(lambda: ask(gateway, "times", "x", "FP32", [1] * 4).get("output"), "the others are served", 20)
            assert ask(gateway, "times", "x", "FP32", [1] * 4)["output"]["tensors"]["y"]["data"][0] == 3
            # ... or the same files everywhere: then both serve.
            shutil.rmtree(tmp_path / "a" / "times" / "1")
            models.times(tmp_path / "a", 1, factor=3)
            with WorkerProcess(queue, tmp_path / "a", {"JITNEY_HEARTBEAT_S": "0.3"}):
                both = {"status": "ready", "model": "times", "versions": {"1": 2}}
                wait_until(lambda: gateway.http.get("/readyz/models/times").json() == both, "both serve", 30)
                wait_until(lambda: gateway.http.get("/readyz").json()["warnings"] == [], "nothing differs")


def test_an_unknown_name_in_the_models_setting_is_refused_with_the_known_ones(queue: Server, tmp_path: Path) -> None:
    models.doubling(tmp_path)
    with WorkerProcess(queue, tmp_path, {"JITNEY_SERVE_MODELS": "x,y"}) as worker:
        assert worker.process.wait(30) == 78
        assert f"JITNEY_SERVE_MODELS=x,y: no such model in {tmp_path}; allowed: double\n" in worker.log()
    with WorkerProcess(queue, tmp_path, {"JITNEY_SERVE_MODELS": "x,double"}) as worker:
        worker.until("serves double 1")
        assert f"model x is not served: no such model in {tmp_path}; allowed: double\n" in worker.log()
