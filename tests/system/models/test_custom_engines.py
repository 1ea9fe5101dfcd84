"""Custom engines in real workers: one of numpy answers, and broken ones harm no other model."""

from collections.abc import Iterator

import pytest

from tests.support import models
from tests.support.model_files.engines import NUMPY_ENGINE, numpy_model
from tests.support.service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models_dir = tmp_path_factory.mktemp("models")
    models.doubling(models_dir, "onnx")
    numpy_model(models_dir, "own")
    numpy_model(models_dir, "broken", source="import no_such_module")
    picky = NUMPY_ENGINE.replace("return {", 'assert arrays["x"].min() >= 0, "below zero"\n        return {')
    numpy_model(models_dir, "picky", source=picky)
    with Service(models_dir) as started:
        yield started


def test_a_model_without_an_onnx_file_answers(service: Service) -> None:
    worker = service.pid("worker")
    tensors = [{"datatype": "FP32", "shape": [2], "data": [n, 1]} for n in range(40)]
    jobs = [{"model": "own", "input": {"tensors": {"x": tensor}}} for tensor in tensors]
    ids = [service.http.post("/v1/jobs", json=job).json()["id"] for job in jobs]
    answers = [service.final(one)["output"]["tensors"]["y"]["data"] for one in ids]
    assert answers == [[3, n + 4, 2 * n + 5] for n in range(40)]
    assert service.pid("worker") == worker
    shown = {one["name"]: one for one in service.http.get("/v1/models").json()["models"]}
    assert (shown["own"]["status"], shown["own"]["device"]) == ("ready", "numpy")
    assert shown["own"]["provider_note"] == "custom engine own.py:Numpy"


def test_a_broken_engine_is_one_line_and_the_others_serve(service: Service) -> None:
    shown = {one["name"]: one for one in service.http.get("/v1/models").json()["models"]}
    assert shown["onnx"]["status"] == "ready"
    assert shown["broken"]["status"] == "failed"
    why = "engine: \"own.py:Numpy\" cannot be used: ModuleNotFoundError: No module named 'no_such_module'"
    assert shown["broken"]["reason"].endswith(why)
    assert f"model broken is not served: {shown['broken']['reason']}" in service.log()


def test_a_row_that_an_engine_refuses_fails_alone(service: Service) -> None:
    ids = []
    for first in (1, -1, 2, -2, 3):
        tensor = {"datatype": "FP32", "shape": [2], "data": [first, 0]}
        answer = service.http.post("/v1/jobs", json={"model": "picky", "input": {"tensors": {"x": tensor}}})
        ids.append(answer.json()["id"])
    ended = [service.final(one) for one in ids]
    assert [one["status"] for one in ended] == ["succeeded", "failed", "succeeded", "failed", "succeeded"]
    assert ended[1]["error"]["code"] == "inference_failed"
