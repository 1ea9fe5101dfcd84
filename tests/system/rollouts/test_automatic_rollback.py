"""A version that does worse than its predecessor is rolled back automatically, with the reason."""

from pathlib import Path

import pytest

from tests.support import models
from tests.support.rollout.steps import QUICK, Models
from tests.support.service import Service
from tests.support.waiting import wait_until

WATCHED = {**QUICK, "JITNEY_ROLLBACK_JOBS": "10", "JITNEY_MODEL_REFRESH_S": "0.2"}


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    models.picking(tmp_path, "pick", rows=100)
    return tmp_path


def ask(service: Service, row: int = 50) -> tuple[str, str]:
    """Request a row; return the version used, and the result."""
    tensor = {"datatype": "INT64", "shape": [1], "data": [row]}
    body = {"model": "pick", "input": {"tensors": {"x": tensor}}}
    job = service.http.post("/v1/jobs", json=body, headers={"prefer": "wait=20"}).json()
    return job["version"], job["status"]


def test_a_new_version_from_the_folder_is_rolled_back(models_dir: Path) -> None:
    with Service(models_dir, WATCHED) as service:
        pick = Models(service, "pick")
        assert {ask(service) for _ in range(20)} == {("1", "succeeded")}
        models.picking(models_dir, "pick", rows=1)
        pick.until(2, "ready", share=100)
        assert ask(service) == ("2", "failed")
        wait_until(lambda: ask(service) == ("1", "succeeded"), "version 1 has the jobs again")
        entry = pick.until(2, "available", share=0)
        assert "rolled back automatically" in entry["reason"]
        assert "version 2 is rolled back automatically" in service.log()
        assert 'jitney_rollbacks_total{model="pick"} 1.0' in service.http.get("/metrics").text
        models.picking(models_dir, "pick", rows=100)  # the folder's next is not held against it
        pick.until(3, "ready", share=100)
        assert ask(service) == ("3", "succeeded")


def test_a_failing_canary_is_rolled_back_and_a_good_one_is_not(models_dir: Path) -> None:
    with Service(models_dir, {**WATCHED, "JITNEY_WORKERS": "2"}) as service:
        pick = Models(service, "pick")
        pick.ask("promote", version="1")
        models.picking(models_dir, "pick", rows=100)
        models.picking(models_dir, "pick", rows=1)
        pick.until(3, "available")
        pick.ask("share", version="2", percent=50)
        pick.until(2, "ready", share=50)
        assert {ask(service)[1] for _ in range(40)} == {"succeeded"}
        assert pick.entry(2)["role"] == "canary"
        pick.ask("share", version="3", percent=50)
        pick.until(3, "ready", share=50)
        wait_until(lambda: ask(service)[0] and pick.entry(3)["share"] == 0, "version 3 is taken back")
        assert pick.until(1, "ready", share=100)["role"] == "stable"
        assert {ask(service) for _ in range(20)} == {("1", "succeeded")}


@pytest.mark.timeout(120)
def test_a_version_that_kills_its_workers_is_rolled_back(tmp_path: Path) -> None:
    """Its task kills the process if an answer is below zero; those of version 1 never are."""
    models.times(tmp_path, 1, toml='task = "poison.py:Poison"\nmax_batch = 8')
    (tmp_path / "times" / "poison.py").write_text(models.POISON_TASK)
    with Service(tmp_path, {**WATCHED, "JITNEY_SUSPECT_COOLDOWN_S": "0.2"}) as service:
        times = Models(service)
        assert times.run() == ("1", 1)
        models.times(tmp_path, 2, factor=-1)
        times.until(2, "ready", share=100)
        tensor = {"datatype": "FP32", "shape": [4], "data": [1, 1, 1, 1]}
        body = {"model": "times", "input": {"tensors": {"x": tensor}}}
        killed = service.http.post("/v1/jobs", json=body, headers={"prefer": "wait=30"}).json()
        if killed["status"] in {"queued", "running"}:  # three starts of a worker take long on a busy machine
            killed = service.http.get(killed["urls"]["self"], params={"wait": 30}, timeout=40).json()
        assert (killed["version"], killed["error"]["code"]) == ("2", "poison")
        times.until(1, "ready", share=100)
        assert times.run() == ("1", 1)
        assert "3 workers died while they ran its jobs" in service.log()
