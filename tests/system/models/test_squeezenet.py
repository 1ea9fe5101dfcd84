"""A real ImageNet network, served with a model.toml and labels, gives the reference answers."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import models
from tests.support.service import Service

FILES = {"batched": "squeezenet1.1_fp32_dynbatch.derived.onnx", "single": "squeezenet1.1_fp16.onnx"}
UNSURE = {"horse-cart.jpg", "grace_hopper.jpg"}  # the reference itself is in doubt there


@pytest.fixture(scope="module")
def squeezenets(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models_dir = tmp_path_factory.mktemp("models")
    for name, file in FILES.items():
        # A cap that is measured beside other tests may be 1.
        models.squeezenet(models_dir, shared_data, file, name, "max_batch = 8" if name == "batched" else "")
    with Service(models_dir) as service:
        yield service


@pytest.fixture(scope="module")
def sure(shared_data: Path) -> dict[Path, str]:
    """Photographs with an unambiguous top-1 label, and that label."""
    reference = json.loads((shared_data / "reference_top5.json").read_text())["images"]
    top = {name: entry["top5"][0] for name, entry in reference.items() if name not in UNSURE}
    return {shared_data / "photos" / name: one["label"] for name, one in top.items() if one["p"] >= 0.6}


@pytest.mark.parametrize("model", FILES)
def test_photographs_get_their_reference_label(squeezenets: Service, sure: dict[Path, str], model: str) -> None:
    assert len(sure) >= 9
    for photo, label in sure.items():
        job = squeezenets.submit(photo.read_bytes(), "image/jpeg", wait=20, model=model).json()
        assert job["output"]["predictions"][0]["label"] == label, photo.name


def test_photographs_in_a_batch_get_the_same_labels(squeezenets: Service, sure: dict[Path, str]) -> None:
    photos = list(sure) * 8

    def submit(photo: Path) -> str:
        job_id: str = squeezenets.submit(photo.read_bytes(), "image/jpeg", model="batched").json()["id"]
        return job_id

    with ThreadPoolExecutor(16) as callers:  # one after the other they might come slower than they are run
        sent = list(callers.map(submit, photos))
    jobs = [squeezenets.final(job_id) for job_id in sent]
    assert [job["output"]["predictions"][0]["label"] for job in jobs] == [sure[photo] for photo in photos]
    assert max(job["batch_size"] for job in jobs) > 1


def test_the_model_list_describes_each_model(squeezenets: Service) -> None:
    cards = {card["name"]: card for card in squeezenets.http.get("/v1/models").json()["models"]}
    assert cards["batched"]["batchable"] is True
    assert (cards["single"]["batchable"], cards["single"]["max_batch"]) == (False, 1)
    assert {card["provider"] for card in cards.values()} <= {"cpu", "cuda"}
    refused = squeezenets.http.post("/predict", files={"image": b"\x89PNG\r\n\x1a\n"})
    assert refused.status_code == 422
    assert (refused.json()["code"], refused.json()["allowed"]) == ("model_required", ["batched", "single"])
