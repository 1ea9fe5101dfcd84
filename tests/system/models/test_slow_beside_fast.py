"""Answers of a fast model while a run of a slow one is under way: with two workers, and with two runs side by side."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support import models
from tests.support.service import Service
from tests.support.waiting import wait_until

HELD_ENGINE = '''
"""Doubles. A run takes 0.2 s; from 100 on it lasts until the file `go` exists."""
import threading
from pathlib import Path
from jitney import TensorSpec

class Held:
    provider, device, runtime, batchable = "cpu", "patience", "1", False

    def __init__(self, version, spec, gpu):
        self.folder = Path(version).parent
        self.inputs, self.outputs = [TensorSpec("x", "FP32", (4,))], [TensorSpec("y", "FP32", (4,))]

    def run(self, arrays, stop):
        x = arrays["x"]
        if x.max() >= 100:
            (self.folder / "held").touch()
            while not (self.folder / "go").exists():
                threading.Event().wait(0.01)
        elif x.any():
            threading.Event().wait(0.2)
        return {"y": x + x}
'''
FAST_JOBS = 30

Submit = Callable[[str, float], httpx2.Response]


@contextmanager
def served(tmp_path: Path, **settings: str) -> Iterator[tuple[Service, Submit, Path]]:
    models.doubling(tmp_path / "models", "fast")
    folder = models.doubling(tmp_path / "models", "slow", 'task = "tensor"\nengine = "held.py:Held"')
    (folder / "held.py").write_text(HELD_ENGINE)
    env = {f"JITNEY_{name}": value for name, value in settings.items()} | {"JITNEY_HEARTBEAT_S": "0.5"}
    with Service(tmp_path / "models", env) as service:

        def submit(model: str, value: float, wait_s: int = 20) -> httpx2.Response:
            tensor = {"datatype": "FP32", "shape": [4], "data": [value] * 4}
            body = {"model": model, "input": {"tensors": {"x": tensor}}}
            return service.http.post("/v1/jobs", json=body, headers={"prefer": f"wait={wait_s}"} if wait_s else {})

        yield service, submit, folder


def answers_while_a_slow_run_is_held(submit: Callable[..., httpx2.Response], folder: Path) -> None:
    held = submit("slow", 100, 0).json()["id"]
    wait_until((folder / "held").exists, "the slow run has begun")
    for number in range(1, FAST_JOBS + 1):
        assert submit("fast", number).json()["output"]["tensors"]["y"]["data"] == [2 * number] * 4
    (folder / "go").touch()
    assert held


def test_two_runs_go_side_by_side(tmp_path: Path) -> None:
    with served(tmp_path, MAX_CONCURRENT_RUNS="2") as (service, submit, folder):
        assert submit("slow", 1).json()["status"] == "succeeded"
        answers_while_a_slow_run_is_held(submit, folder)
        wait_until(lambda: service.http.get("/v1/jobs?limit=100").text.count('"succeeded"') == FAST_JOBS + 2, "all end")


def test_of_two_workers_one_claims_the_long_runs(tmp_path: Path) -> None:
    with served(tmp_path, WORKERS="2") as (service, submit, folder):

        def is_separate() -> bool:
            for model in ("slow", "fast"):
                assert submit(model, 1).json()["status"] == "succeeded"
            return "leaves to other workers: slow 1" in service.log() and "workers: fast 1" in service.log()

        wait_until(is_separate, "each worker has its models", 30)
        answers_while_a_slow_run_is_held(submit, folder)


@pytest.mark.parametrize("separate", ["true", "false"])
def test_a_worker_that_is_left_alone_claims_everything(tmp_path: Path, separate: str) -> None:
    with served(tmp_path, WORKERS="1", SEPARATE_LONG_RUNS=separate) as (service, submit, _):
        for _ in range(3):
            assert {submit(model, 1).json()["status"] for model in ("slow", "fast")} == {"succeeded"}
        assert "leaves to other workers" not in service.log()
