"""Served models that do not batch: one that mixes rows runs alone and says so, another is padded."""

from collections.abc import Iterator

import pytest

from cli import main
from tests.support import models
from tests.support.model_files.cases import COUPLED
from tests.support.service import Service

ROWS = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [100.0, 0.0, -1.0, 0.5]]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serve a model that adds the batch's mean to each row, trusted once, checked once; and one with buckets."""
    models_dir = tmp_path_factory.mktemp("models")
    for name, toml in (("leaky", ""), ("trusted", 'batching = "trust"\nmax_batch = 8')):
        (models_dir / name).mkdir()
        COUPLED["a mean over the batch"][1](models_dir / name / "1" / "model.onnx", "N")
        (models_dir / name / "model.toml").write_text(f'task = "tensor"\n{toml}')
    models.doubling(models_dir, "padded", 'task = "tensor"\nmax_batch = 8\nbuckets = [8]')
    assert main.main(["models", "profile", str(models_dir / "padded"), "--seconds", "0.01", "--provider", "cpu"]) == 0
    with Service(models_dir) as service:
        yield service


def answers(service: Service, model: str) -> tuple[list[list[float]], set[int]]:
    """Send rows in one request; return their answers and batch sizes."""
    inputs = [{"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": row}}} for row in ROWS]
    taken = service.http.post("/v1/jobs", json=[{"model": model, "input": one} for one in inputs]).json()["jobs"]
    jobs = [service.final(job["id"]) for job in taken]
    return [job["output"]["tensors"]["y"]["data"] for job in jobs], {job["batch_size"] for job in jobs}


def test_a_model_whose_rows_mix_serves_one_at_a_time_and_says_so(mixed: Service) -> None:
    card = {one["name"]: one for one in mixed.http.get("/v1/models").json()["models"]}["leaky"]
    assert (card["status"], card["batchable"], card["max_batch"], card["checked"]) == ("ready", False, 1, False)
    assert card["batch_note"].startswith("it fails the check: rows are mixed by ReduceMean 'the-culprit': ")
    assert card["drift"] > 0.1
    assert f"model leaky runs one row at a time: {card['batch_note']}" in mixed.log()
    told, together = answers(mixed, "leaky")
    assert together == {1}
    assert told == [[2 * max(one, 0.0) for one in row] for row in ROWS], "each its own mean"


def test_an_operator_may_trust_a_model(mixed: Service) -> None:
    card = {one["name"]: one for one in mixed.http.get("/v1/models").json()["models"]}["trusted"]
    assert (card["batchable"], card["max_batch"], card["checked"]) == (True, 8, None)


def test_padded_batches_give_each_job_its_own_answer(mixed: Service) -> None:
    card = {one["name"]: one for one in mixed.http.get("/v1/models").json()["models"]}["padded"]
    assert (card["buckets"], card["checked"]) == ([8], True)
    told, together = answers(mixed, "padded")
    assert told == [[2 * one for one in row] for row in ROWS]
    assert max(together) <= 3, "items are counted, not padding rows"


def test_a_stored_profile_is_shown(mixed: Service) -> None:
    card = {one["name"]: one for one in mixed.http.get("/v1/models").json()["models"]}["padded"]
    (profile,) = card["profiles"]
    assert (profile["provider"], profile["device"]) == (card["provider"], card["device"])
    assert profile["sizes"]["8"]["p99_ms"] >= profile["sizes"]["8"]["p50_ms"] > 0
