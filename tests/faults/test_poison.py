"""Inputs that kill their worker, or ask for more memory than there is: they fail, and nobody beside them does."""

import os
import resource
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support import invariants, models
from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import wait_until

DEADLY_PREPARE = '''
"""Dies in native code while it prepares a marked input."""
import ctypes
from worker.models.tasks.tensor import TensorTask

class Deadly(TensorTask):
    offload = True

    def prepare(self, kind, data, parameters):
        arrays = super().prepare(kind, data, parameters)
        if float(arrays["x"][0]) == 666.0:
            ctypes.string_at(0)
        return arrays
'''
DEADLY_RUN = '''
"""Dies in native code while a batch with a marked input is on the device."""
import ctypes, threading
from worker.models.tasks.tensor import TensorTask

class Deadly(TensorTask):
    def present(self, outputs, parameters):
        threading.Event().wait(0.01)
        if float(outputs["y"][0]) == 2 * 666.0:
            ctypes.string_at(0)
        return super().present(outputs, parameters)
'''
FLOOD = int(os.environ.get("FAULT_FLOOD") or 5)  # each dies alone in the end, after two or three deaths in company
POISON = struct.pack("<4f", 666, 0, 0, 0)
# The lease as it is in production: the dead are buried by their supervisor, which needs none to end.
AGAIN_SOON = {"RESTART_LIMIT_S": "0.3", "LEASE_S": "20"}


def deadly(models_dir: Path, task: str) -> None:
    folder = models.doubling(models_dir, "deadly", 'task = "deadly.py:Deadly"\nmax_batch = 8')
    (folder / "deadly.py").write_text(task)


def send(service: Service, body: bytes, model: str = "deadly") -> str:
    answer = service.submit(body, "application/octet-stream", model=model)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def good(number: int) -> bytes:
    return struct.pack("<4f", number, 1, 1, 1)


def assert_order(service: Service) -> None:
    (socket,) = service.folder.rglob("*.sock")
    with redis.Redis(unix_socket_path=str(socket)) as client:
        invariants.check(client)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("task", [DEADLY_PREPARE, DEADLY_RUN], ids=["while_preparing", "while_running"])
def test_who_kills_its_worker_fails_as_poison_and_its_neighbours_succeed(tmp_path: Path, task: str) -> None:
    """F16: seven good jobs and one that kills, in one batch."""
    deadly(tmp_path, task)
    with Service(tmp_path, AGAIN_SOON) as service:
        bodies = [POISON if number == 3 else good(number) for number in range(8)]
        jobs = [service.final(job_id, 50) for job_id in [send(service, body) for body in bodies]]
        culprit = jobs.pop(3)
        assert {job["status"] for job in jobs} == {"succeeded"}
        assert [job["output"]["tensors"]["y"]["data"][0] for job in jobs] == [0, 2, 4, 8, 10, 12, 14]
        assert (culprit["status"], culprit["error"]["code"]) == ("failed", "poison")
        assert 3 <= service.log().count("worker died") <= 3 + 3
        assert_order(service)


@pytest.mark.timeout(150)
def test_a_flood_of_poison_leaves_other_workers_serving(tmp_path: Path) -> None:
    """F17: many jobs that kill, at once, and digits beside them."""
    deadly(tmp_path, DEADLY_RUN)
    shutil.copytree(ROOT / "models" / "digits", tmp_path / "digits")
    with Service(tmp_path, {**AGAIN_SOON, "WORKERS": "3"}) as service:
        wait_until(lambda: service.http.get("/readyz").json().get("workers") == 3, "three workers")
        culprits = [send(service, POISON) for _ in range(FLOOD)]
        slowest = 0.0
        while any(_is_open(service, job_id) for job_id in culprits):
            begun, image = time.monotonic(), DIGITS[0]
            job = service.submit(image.read_bytes(), wait=20, model="digits").json()
            assert job["status"] == "succeeded", f"{job}\n{service.log()}"
            assert job["output"]["predictions"][0]["label"] == image.name[0]
            slowest = max(slowest, time.monotonic() - begun)
        assert slowest < 20, "a healthy job never waits for a lease"
        assert {service.final(job_id)["error"]["code"] for job_id in culprits} == {"poison"}
        assert_order(service)


def _is_open(service: Service, job_id: str) -> bool:
    status: str = service.http.get(f"/v1/jobs/{job_id}").json()["status"]
    return status in {"queued", "running"}


@pytest.fixture
def little_memory(tmp_path: Path, shared_data: Path) -> Iterator[Service]:
    """A worker that may take 1 GiB more than it has, and a model that takes what it is told to."""
    folder = tmp_path / "models" / "hungry"
    (folder / "1").mkdir(parents=True)
    shutil.copy(shared_data / "fault_models" / "alloc_by_input.onnx", folder / "1" / "model.onnx")
    (folder / "model.toml").write_text('task = "tensor"\n[retry]\nattempts = 2\nbackoff_ms = 50\n')
    with Service(tmp_path / "models") as service:
        pid = service.pid("worker")
        size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (size + (1 << 30), size + (1 << 30)))
        yield service


def test_who_finds_no_memory_even_alone_is_tried_again_and_then_fails_by_itself(little_memory: Service) -> None:
    """F15: one job that wants 8 GB among jobs that want little."""
    wishes = [10, 2 * 10**9, 20, 30]
    ids = [send(little_memory, struct.pack("<q", wish), "hungry") for wish in wishes]
    ends: list[dict[str, Any]] = [little_memory.final(job_id) for job_id in ids]
    greedy = ends.pop(1)
    assert {job["status"] for job in ends} == {"succeeded"}
    assert (greedy["status"], greedy["error"]["code"], greedy["attempts"]) == ("failed", "resource_exhausted", 2)
    assert "died" not in little_memory.log()
    assert_order(little_memory)
