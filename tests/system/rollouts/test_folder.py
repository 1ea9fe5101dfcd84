"""Models and versions appear and disappear in the models folder while they are served."""

import shutil
from collections.abc import Iterator
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
from tests.support.rollout.steps import QUICK, Models
from tests.support.service import Service
from tests.support.waiting import wait_until

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


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tests that each have a model of their own, with the model `other` beside them."""
    folder = tmp_path_factory.mktemp("rollouts") / "models"
    models.doubling(folder, "other")
    return folder


@pytest.fixture(scope="module")
def service(models_dir: Path) -> Iterator[Service]:
    with Service(models_dir, QUICK) as service:
        yield service


@pytest.fixture
def times(service: Service, models_dir: Path, request: pytest.FixtureRequest) -> Models:
    """The test's own model, served in version 1."""
    found = Models(service, f"times-{request.node.name[-20:]}".replace("_", "-"))
    models.times(models_dir, 1, found.name)
    found.until(1, "ready", share=100)
    return found


@pytest.fixture
def own_dir(tmp_path: Path) -> Path:
    """A folder for a service that serves one test alone, because it stops, dies or has other settings."""
    models.times(tmp_path, 1)
    models.doubling(tmp_path, "other")
    return tmp_path


def test_a_new_version_takes_the_jobs_once_it_is_warm(service: Service, times: Models, models_dir: Path) -> None:
    said = len(service.log())
    assert times.run() == ("1", 1)
    models.times(models_dir, 2, times.name)
    times.until(2, "ready", share=100)
    assert times.run() == ("2", 2)
    assert times.until(1, "ready", share=0)["role"] == "before"  # as long as the new one is watched
    assert f"{times.name} 2: CPU, batches up to " in service.log()
    assert "version 2 from its folder replaces version 1" in service.log()[said:]


def test_a_new_model_and_a_repaired_one_are_served(service: Service, models_dir: Path) -> None:
    broken = models.doubling(models_dir, "late", 'task = "tensr"') / "model.toml"
    late = Models(service, "late")
    refused = _refused(service, "late")
    assert refused.json()["code"] == "model_unavailable"
    assert "tensr" in refused.json()["detail"]
    broken.write_text('task = "tensor"')
    late.until(1, "ready", share=100)
    assert late.run() == ("1", 2)


def test_a_version_that_cannot_be_loaded_changes_nothing(service: Service, times: Models, models_dir: Path) -> None:
    (models_dir / times.name / "2").mkdir()
    (models_dir / times.name / "2" / "model.onnx").write_bytes(b"xx")
    reason = times.until(2, "failed")["reason"]
    assert str(models_dir / times.name / "2" / "model.onnx") in reason
    assert times.run() == ("1", 1)
    shutil.rmtree(models_dir / times.name / "2")
    models.times(models_dir, 2, times.name)
    times.until(2, "ready", share=100)
    assert f"model {times.name} version 1 is unloaded" not in service.log()


def test_files_that_change_under_their_number_are_loaded_again(
    service: Service, times: Models, models_dir: Path
) -> None:
    models.times(models_dir, 1, name="seven", factor=7)
    (models_dir / "seven" / "1" / "model.onnx").replace(models_dir / times.name / "1" / "model.onnx")
    wait_until(lambda: times.run() == ("1", 7), "the new file answers")
    assert service.log().count(f" INFO {times.name} 1: ") == 2


def test_an_unwatched_folder_is_read_when_an_admin_asks(own_dir: Path) -> None:
    with Service(own_dir, {**QUICK, "JITNEY_MODELS_POLL_S": "0"}) as service:
        times = Models(service)
        models.times(own_dir, 2)
        times.until(2, "available")
        assert times.run() == ("1", 1)
        times.ask("load", version="2")
        assert times.until(2, "ready")["role"] == "kept"
        assert times.run() == ("1", 1)
        times.ask("promote", version="2")
        assert times.run() == ("2", 2)


def test_a_broken_model_toml_leaves_the_running_version(service: Service, times: Models, models_dir: Path) -> None:
    (models_dir / times.name / "model.toml").write_text("task = 17")
    wait_until(lambda: f"model {times.name} is not served" in service.log(), "the error is told")
    assert times.entry(1)["status"] == "ready"
    assert times.run() == ("1", 1)


def test_a_removed_version_is_replaced_by_the_next_lower_one(service: Service, times: Models, models_dir: Path) -> None:
    models.times(models_dir, 2, times.name)
    times.until(2, "ready", share=100)
    shutil.rmtree(models_dir / times.name / "2")
    times.until(1, "ready", share=100)
    assert times.run() == ("1", 1)
    wait_until(lambda: times.entry(2) is None, "nobody knows version 2 any more")
    assert f"model {times.name} version 2 is unloaded" in service.log()


def test_a_removed_model_is_refused_and_the_others_continue(service: Service, times: Models, models_dir: Path) -> None:
    (models_dir / times.name).rename(models_dir.with_name("removed"))  # at once: a half-removed model is a broken one
    refused = _refused(service, times.name).json()
    assert refused["code"] == "model_unavailable"
    assert "files are gone from the models folder" in refused["detail"]
    wait_until(lambda: _submit(service, times.name).status_code == 404, "it is unknown")
    assert Models(service, "other").run() == ("1", 2)
    models.times(models_dir, 1, times.name)
    times.until(1, "ready", share=100)


@pytest.mark.timeout(90)
def test_a_version_that_kills_its_worker_is_not_loaded_again(own_dir: Path) -> None:
    with Service(own_dir, QUICK) as service:
        times = Models(service)
        folder = models.doubling(own_dir, "deadly", 'task = "deadly.py:Deadly"')
        (folder / "deadly.py").write_text(DEADLY)
        deadly = Models(service, "deadly")
        assert "workers died" in deadly.until(1, "failed")["reason"]
        assert service.log().count("killed by signal 11") == 2
        times.until(1, "ready", share=100)
        assert times.run() == ("1", 1)
        (folder / "model.toml").write_text('task = "tensor"')
        deadly.until(1, "ready", share=100)


def test_a_worker_stops_in_the_middle_of_a_load(own_dir: Path) -> None:
    with Service(own_dir, QUICK) as service:
        folder = models.doubling(own_dir, "endless", 'task = "endless.py:Endless"')
        (folder / "endless.py").write_text(ENDLESS)
        Models(service, "endless").until(1, "loading")
        assert service.stop() == 0
        assert "worker did not stop" not in service.log()


def test_an_empty_folder_counts_as_not_mounted(service: Service, times: Models, models_dir: Path) -> None:
    said = len(service.log())
    hidden = models_dir.with_name("hidden")
    models_dir.rename(hidden)
    wait_until(lambda: "cannot read the models folder" in service.log()[said:], "the worker has looked")
    models_dir.mkdir()
    assert times.run() == ("1", 1)
    models_dir.rmdir()
    hidden.rename(models_dir)


async def test_jobs_of_a_version_without_a_worker_are_still_run(own_dir: Path, anyio_backend: str) -> None:
    """Submit like a gateway with outdated information."""
    del anyio_backend
    with Service(own_dir, {**QUICK, "JITNEY_ROLLBACK_WATCH_S": "0"}) as service:
        times = Models(service)
        models.times(own_dir, 2)
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
    """Wait until jobs for a model are refused temporarily; return the response."""

    def refusal() -> httpx2.Response | None:
        answer = _submit(service, model)
        return answer if answer.status_code == 503 else None

    return wait_until(refusal, f"jobs for {model} are refused")
