"""A broken model harms no other; its fault is one line in the log, in readiness and for callers."""

import shutil
from pathlib import Path

import pytest

from tests.support import models
from tests.support.service import Service
from tests.support.waiting import wait_until


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    models.doubling(tmp_path / "models", "good")
    return tmp_path / "models"


def test_other_models_are_served_and_the_reason_is_shown(models_dir: Path, shared_data: Path) -> None:
    models.doubling(models_dir, "typo", 'task = "tensor"\nmax_bach = 3')
    (models.doubling(models_dir, "corrupt") / "1" / "model.onnx").write_bytes(b"xx")
    foreign = models.doubling(models_dir, "foreign") / "1" / "model.onnx"
    shutil.copy(shared_data / "models" / "resnet8-cifar10" / "network.onnx", foreign)
    escape = models.doubling(models_dir, "escape") / "1" / "model.onnx"
    shutil.copy(shared_data / "fault_models" / "external_data_traversal.onnx", escape)
    with Service(models_dir) as service:
        shown = {model["name"]: model for model in service.http.get("/v1/models").json()["models"]}
        assert shown["good"]["status"] == "ready"
        assert {shown[name]["status"] for name in ("typo", "corrupt", "foreign", "escape")} == {"failed"}
        reasons = {name: shown[name]["reason"] for name in shown if name != "good"}
        assert "model.toml" in reasons["typo"]
        assert "max_bach" in reasons["typo"]
        assert "max_batch" in reasons["typo"]
        assert "RequantShift" in reasons["foreign"]
        assert all("\n" not in reason for reason in reasons.values())
        assert set(service.http.get("/readyz").json()["models"]) == {"good", *reasons}
        refused = service.http.post("/v1/jobs?model=corrupt", content=b"1", headers={"content-type": "image/png"})
        assert (refused.status_code, refused.json()["code"]) == (503, "model_unavailable")
        for name, reason in reasons.items():
            assert f"model {name} is not served: {reason}" in service.log()


def test_a_folder_without_models_stops_the_start_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with Service(tmp_path / "empty", ready=False) as service:
        wait_until(lambda: service.process.poll() is not None, "it gives up")
        assert service.process.returncode == 78
        assert f"no models in {tmp_path / 'empty'}" in service.log()


def test_the_gateway_is_ready_and_the_model_is_not_if_all_models_are_broken(tmp_path: Path) -> None:
    (models.doubling(tmp_path / "models", "corrupt") / "1" / "model.onnx").write_bytes(b"xx")
    with Service(tmp_path / "models", ready=False) as service:
        reason = wait_until(lambda: service.http.get("/readyz").json()["models"], "the worker's word arrives")
        assert "corrupt" in reason
        answer = service.http.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (200, "no worker could load a model")
        answer = service.http.get("/readyz/models/corrupt")
        assert (answer.status_code, "model.onnx" in answer.json()["reason"]) == (503, True)
        assert "Jitney is ready" not in service.out.read_text()
