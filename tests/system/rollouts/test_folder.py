"""What comes and goes in the folder of models while they are served."""

import shutil
from pathlib import Path

import httpx2
import pytest

from cli.serve.redis_address import locate
from jobs.contract.ids import new_job_id
from jobs.contract.job import Submission
from jobs.contract.tensors import Tensor, pack_tensors
from jobs.redis_client.client import RedisClient
from jobs.store.job_store import JobStore
from jobs.store.settings import StoreSettings
from tests.support import models
from tests.support.rollout.steps import Models
from tests.support.service import Service
from tests.support.waiting import wait_until
from tests.system.rollouts.conftest import QUICK

DEADLY = '''
"""A task that ends its process while it is loaded."""
import ctypes
from jitney import TensorTask

class Deadly(TensorTask):
    def __init__(self, *given):
        ctypes.string_at(0)
'''

ENDLESS = '''
"""A task that takes its time to load."""
import threading
from jitney import TensorTask

class Endless(TensorTask):
    def __init__(self, *given):
        threading.Event().wait(60)
'''


def test_a_new_version_takes_the_jobs_once_it_is_warm(service: Service, times: Models, shelf: Path) -> None:
    assert times.run() == ("1", 1)
    models.times(shelf, 2)
    times.until(2, "ready", share=100)
    assert times.run() == ("2", 2)
    assert times.until(1, "ready", share=0)["role"] == "before"  # as long as the new one is watched
    assert "model times version 2 loaded in" in service.log()
    assert "version 2 from its folder replaces version 1" in service.log()


def test_a_new_model_is_served_and_a_mended_one(service: Service, shelf: Path) -> None:
    broken = models.doubling(shelf, "late", 'task = "tensr"') / "model.toml"
    late = Models(service, "late")
    refused = _refused(service, "late")
    assert refused.json()["code"] == "model_unavailable"
    assert "tensr" in refused.json()["detail"]
    broken.write_text('task = "tensor"')
    late.until(1, "ready", share=100)
    assert late.run() == ("1", 2)


def test_a_version_that_can_not_be_loaded_changes_nothing(service: Service, times: Models, shelf: Path) -> None:
    (shelf / "times" / "2").mkdir()
    (shelf / "times" / "2" / "model.onnx").write_bytes(b"xx")
    reason = times.until(2, "failed")["reason"]
    assert str(shelf / "times" / "2" / "model.onnx") in reason
    assert times.run() == ("1", 1)
    shutil.rmtree(shelf / "times" / "2")
    models.times(shelf, 2)
    times.until(2, "ready", share=100)
    assert "model times version 1 is unloaded" not in service.log()


def test_files_that_change_under_their_number_are_loaded_anew(service: Service, times: Models, shelf: Path) -> None:
    models.times(shelf, 1, name="seven", factor=7)
    (shelf / "seven" / "1" / "model.onnx").replace(shelf / "times" / "1" / "model.onnx")
    wait_until(lambda: times.run() == ("1", 7), "the new file answers")
    assert service.log().count("model times version 1 loaded") == 2


def test_a_folder_that_is_not_watched_counts_once_an_admin_asks(shelf: Path) -> None:
    with Service(shelf, {**QUICK, "JITNEY_MODELS_POLL_S": "0"}) as service:
        times = Models(service)
        models.times(shelf, 2)
        times.until(2, "available")
        assert times.run() == ("1", 1)
        times.ask("load", version="2")
        assert times.until(2, "ready")["role"] == "kept"
        assert times.run() == ("1", 1)
        times.ask("promote", version="2")
        assert times.run() == ("2", 2)


def test_a_broken_model_toml_leaves_what_runs(service: Service, times: Models, shelf: Path) -> None:
    (shelf / "times" / "model.toml").write_text("task = 17")
    wait_until(lambda: "model times is not served" in service.log(), "the error is told")
    assert times.entry(1)["status"] == "ready"
    assert times.run() == ("1", 1)


def test_a_version_that_is_removed_makes_way_for_the_one_below(service: Service, times: Models, shelf: Path) -> None:
    models.times(shelf, 2)
    times.until(2, "ready", share=100)
    shutil.rmtree(shelf / "times" / "2")
    times.until(1, "ready", share=100)
    assert times.run() == ("1", 1)
    wait_until(lambda: times.entry(2) is None, "nobody knows version 2 any more")
    assert "model times version 2 is unloaded" in service.log()


def test_a_model_that_is_removed_is_refused_and_the_others_go_on(service: Service, times: Models, shelf: Path) -> None:
    shutil.rmtree(shelf / "times")
    refused = _refused(service, "times")
    assert (refused.json()["code"], "files are gone" in refused.json()["detail"]) == ("model_unavailable", True)
    wait_until(lambda: _submit(service, "times").status_code == 404, "it is unknown")
    assert Models(service, "other").run() == ("1", 2)
    models.times(shelf, 1)
    times.until(1, "ready", share=100)


@pytest.mark.timeout(90)
def test_a_version_that_kills_its_worker_is_left_alone(service: Service, times: Models, shelf: Path) -> None:
    folder = models.doubling(shelf, "deadly", 'task = "deadly.py:Deadly"')
    (folder / "deadly.py").write_text(DEADLY)
    deadly = Models(service, "deadly")
    assert "workers died" in deadly.until(1, "failed")["reason"]
    assert service.log().count("killed by signal 11") == 2
    times.until(1, "ready", share=100)
    assert times.run() == ("1", 1)
    (folder / "model.toml").write_text('task = "tensor"')
    deadly.until(1, "ready", share=100)


def test_a_worker_stops_in_the_middle_of_a_load(service: Service, shelf: Path) -> None:
    folder = models.doubling(shelf, "endless", 'task = "endless.py:Endless"')
    (folder / "endless.py").write_text(ENDLESS)
    Models(service, "endless").until(1, "loading")
    assert service.stop() == 0
    assert "worker did not stop" not in service.log()


def test_an_empty_folder_is_taken_for_one_that_is_not_mounted(service: Service, times: Models, shelf: Path) -> None:
    hidden = shelf.with_name("hidden")
    shelf.rename(hidden)
    wait_until(lambda: "cannot read the models folder" in service.log(), "the worker has looked")
    shelf.mkdir()
    assert times.run() == ("1", 1)
    shelf.rmdir()
    hidden.rename(shelf)


async def test_jobs_of_a_version_that_nobody_runs_are_run_all_the_same(shelf: Path, anyio_backend: str) -> None:
    """As a gateway sends them that has not heard of anything for long."""
    del anyio_backend
    with Service(shelf, {**QUICK, "JITNEY_ROLLBACK_WATCH_S": "0"}) as service:
        times = Models(service)
        models.times(shelf, 2)
        times.until(1, "available")
        connection = RedisClient(locate({"JITNEY_DATA_DIR": str(service.folder / "data")}).address.url, 5)
        store = JobStore(StoreSettings(), connection)
        number = Tensor("FP32", (4,), b"\0\0\x80?" * 4)
        job = Submission(new_job_id(0), "times", "1", "tensors", pack_tensors({"x": number}))
        await store.submit([job])
        await connection.aclose()
        final = service.final(job.id)
        assert (final["status"], final["version"]) == ("succeeded", "1")
        times.until(1, "available")
        assert times.run() == ("2", 2)


def _submit(service: Service, model: str) -> httpx2.Response:
    return service.http.post(
        f"/v1/jobs?model={model}", content=b"x" * 16, headers={"content-type": "application/octet-stream"}
    )


def _refused(service: Service, model: str) -> httpx2.Response:
    """Wait until jobs for a model are refused for now; gives the answer."""

    def refusal() -> httpx2.Response | None:
        answer = _submit(service, model)
        return answer if answer.status_code == 503 else None

    return wait_until(refusal, f"jobs for {model} are refused")
