"""Custom code never runs on the worker's event loop, and only engine runs use the device's thread.

A `postprocess` that took 13 s held every model of the worker and then ended it. Whatever is called notes its thread.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support import models
from tests.support.service import Service
from tests.support.waiting import wait_until

NOTING = """
import threading
from pathlib import Path

NOTED = set()

def note(folder, place):  # each once: writing a file takes longer than a run may, to stay on the loop
    line = f"{place} {threading.current_thread().name}\\n"
    if line not in NOTED:
        NOTED.add(line)
        with (Path(folder) / "notes.txt").open("a") as file:
            file.write(line)
"""

TASK = f"""{NOTING}
from jitney import TensorTask, RetryableError

class Told(RetryableError):
    def __init__(self, folder):
        self.folder = folder
    def __str__(self):
        note(self.folder, "text")
        return "later"

class Noting(TensorTask):
    offload = False

    def __init__(self, spec, folder, inputs, outputs):
        note(folder, "init")
        super().__init__(spec, folder, inputs, outputs)
        del self.label_count

    @property
    def label_count(self):
        note(self.folder, "label_count")
        return 3

    @label_count.deleter
    def label_count(self):
        pass

    def preprocess(self, kind, data, parameters):
        note(self.folder, "prepare")
        arrays = super().preprocess(kind, data, parameters)
        if arrays["x"][0] == 13:
            raise Told(self.folder)
        if arrays["x"][0] == 14:
            raise KeyboardInterrupt
        return arrays

    def postprocess(self, outputs, parameters):
        note(self.folder, "present")
        while outputs["y"][0] == 24 and not (self.folder / "go").exists():
            (self.folder / "held").touch()
            threading.Event().wait(0.01)
        return super().postprocess(outputs, parameters)
"""

ENGINE = f"""{NOTING}
from jitney import TensorSpec

class Noting:
    provider, device, runtime, batchable = "cpu", "noting", "1", True

    def __init__(self, version, spec, gpu):
        self.folder = version.parent
        note(self.folder, "init")
        self.inputs, self.outputs = [TensorSpec("x", "FP32", (4,))], [TensorSpec("y", "FP32", (4,))]

    def run(self, arrays, stop):
        note(self.folder, "run")
        return {{"y": arrays["x"] * 2}}
"""
MANY = 40  # more than a model's runs must be short before they stay on the loop


def body(model: str, first: float) -> dict[str, object]:
    tensor = {"datatype": "FP32", "shape": [4], "data": [first, 1, 2, 3]}
    return {"model": model, "input": {"tensors": {"x": tensor}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    task = models.doubling(made, "task", 'task = "own.py:Noting"\n[retry]\nattempts = 1')
    (task / "own.py").write_text(TASK)
    engine = models.doubling(
        made, "engine", 'task = "tensor"\nengine = "own.py:Noting"\nmax_batch = 4\nbatching = "trust"'
    )
    (engine / "own.py").write_text(ENGINE)
    models.doubling(made, "plain")
    return made


@pytest.fixture(scope="module")
def noting(folder: Path) -> Iterator[Service]:
    with Service(folder) as service:
        yield service


def answer(service: Service, model: str, first: float, wait_s: int = 20) -> httpx2.Response:
    return service.http.post("/v1/jobs", json=body(model, first), headers={"prefer": f"wait={wait_s}"})


def notes(folder: Path, model: str) -> dict[str, set[str]]:
    seen: dict[str, set[str]] = {}
    for line in (folder / model / "notes.txt").read_text().splitlines():
        place, thread = line.split()
        seen.setdefault(place, set()).add(thread.partition("_")[0])
    return seen


def test_a_custom_task_is_called_only_in_threads(noting: Service, folder: Path) -> None:
    for _ in range(MANY):
        assert answer(noting, "task", 1).json()["status"] == "succeeded"
    assert answer(noting, "task", 13).json()["error"]["code"] == "too_many_attempts"
    assert answer(noting, "task", 14).json()["error"]["code"] == "invalid_input"
    noting.http.get("/v1/models")
    seen = notes(folder, "task")
    assert seen.pop("init") == seen.pop("label_count") == {"load"}
    assert seen == {place: {"fair"} for place in ("prepare", "present", "text")}


def test_a_custom_engine_runs_only_in_the_thread_of_the_device(noting: Service, folder: Path) -> None:
    for _ in range(MANY):
        assert answer(noting, "engine", 1).json()["status"] == "succeeded"
    seen = notes(folder, "engine")
    assert seen["init"] == {"load"}
    assert seen["run"] == {"load", "device"}


def test_a_slow_postprocess_delays_no_other_job(noting: Service, folder: Path) -> None:
    worker = noting.pid("worker")
    slow = noting.http.post("/v1/jobs", json=body("task", 12)).json()["id"]
    wait_until((folder / "task" / "held").exists, "it is shown")
    for model in ("plain", "task", "engine"):
        assert answer(noting, model, 1, wait_s=10).json()["status"] == "succeeded", model
    assert noting.http.get(f"/v1/jobs/{slow}").json()["status"] == "running"
    (folder / "task" / "go").touch()
    assert noting.final(slow)["status"] == "succeeded"
    assert noting.pid("worker") == worker
