"""Large outputs from the model to the caller: exact, in chunks, bounded, alike in a queue and without one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support import bulk
from tests.support.service import Service
from tests.support.waiting import wait_until

VALUES = 100_000
TABLE = np.random.default_rng(1).standard_normal(VALUES, np.float32)
MOST = 500_000


def lay_out(models_dir: Path, name: str, toml: str = "") -> None:
    """Lay out a model that multiplies a table: x [N, 1] → y [N, VALUES]."""
    ports = [helper.make_tensor_value_info(p, TensorProto.FLOAT, ["N", n]) for p, n in (("x", 1), ("y", VALUES))]
    node = helper.make_node("Mul", ["x", "table"], ["y"])
    graph = helper.make_graph([node], name, ports[:1], ports[1:], [numpy_helper.from_array(TABLE, "table")])
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "model.toml").write_text(f'task = "tensor"\nmax_batch = 4\n{toml}')


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("models")
    lay_out(folder, "table")
    lay_out(folder, "bounded", f"max_output_bytes = {MOST}")
    with Service(folder, {"JITNEY_OUTPUT_CHUNK_BYTES": "100000"}) as service:
        names = ("table", "bounded")
        wait_until(
            lambda: all(service.http.get(f"/readyz/models/{one}").status_code == 200 for one in names), "models", 30
        )
        yield service


def submit(http: httpx2.Client, model: str, factor: float, **more: Any) -> dict[str, Any]:
    tensor = {"datatype": "FP32", "shape": [1], "data": [factor]}
    body = {"model": model, "input": {"tensors": {"x": tensor}}, **more}
    job: dict[str, Any] = http.post("/v1/jobs", json=body, headers={"prefer": "wait=20"}).json()
    return job


def test_answers_are_exact_in_every_form(service: Service) -> None:
    jobs = [submit(service.http, "table", factor, parameters={"encoding": "json"}) for factor in (1, 2, 3)]
    for factor, job in enumerate(jobs, 1):
        tensor = job["output"]["tensors"]["y"]
        assert (tensor["datatype"], tensor["shape"]) == ("FP32", [VALUES])
        assert np.array_equal(np.array(tensor["data"], np.float32), TABLE * np.float32(factor))
    job = submit(service.http, "table", 0.5, parameters={"encoding": "base64"})
    octets = {"accept": "application/octet-stream"}
    raw = service.http.get(f"/v1/jobs/{job['id']}/output", headers=octets)
    assert raw.headers["jitney-shape"] == str(VALUES)
    assert np.array_equal(np.frombuffer(raw.content, "<f4"), TABLE * np.float32(0.5))
    text = service.http.get(f"/v1/jobs/{jobs[0]['id']}/output").content
    assert len(text) / VALUES < 12
    wrong = submit(service.http, "table", 1, parameters={"encoding": "hex"})
    assert wrong["error"]["code"] == "invalid_request"
    assert "json, base64" in wrong["error"]["message"]


def test_an_output_above_the_limit_of_its_model_fails_its_job_alone_and_once(service: Service) -> None:
    job = submit(service.http, "bounded", 1)
    assert (job["status"], job["attempts"], job["output"]) == ("failed", 1, None)
    assert (job["error"]["code"], job["error"]["limit"]) == ("output_too_large", MOST)
    assert f"more than {MOST} bytes" in job["error"]["message"]
    assert submit(service.http, "bounded", 1, parameters={"encoding": "base64"})["error"]["code"] == "output_too_large"
    assert service.http.get("/v1/deadletters").json()["deadletters"] == []
    models = {one["name"]: one["max_output_bytes"] for one in service.http.get("/v1/models").json()["models"]}
    assert models == {"table": 64 << 20, "bounded": MOST}


def test_a_killed_worker_leaves_no_chunks_and_its_job_ends(service: Service) -> None:
    """The worker is killed while jobs run and write; each ends once, whole."""
    ids = []
    for _ in range(20):
        tensor = {"datatype": "FP32", "shape": [1], "data": [1]}
        answer = service.http.post("/v1/jobs", json={"model": "table", "input": {"tensors": {"x": tensor}}})
        ids.append(answer.json()["id"])
    service.kill("worker")
    for job_id in ids:
        assert len(service.final(job_id)["output"]["tensors"]["y"]["data"]) == VALUES


def test_a_run_without_a_queue_writes_the_same_outputs(service: Service, tmp_path: Path) -> None:
    lay_out(tmp_path, "table")
    tensor = {"datatype": "FP32", "shape": [1], "data": [2]}
    (tmp_path / "in.jsonl").write_text(json.dumps({"input": {"tensors": {"x": tensor}}}) + "\n")
    done = bulk.run(tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--local", tmp_path / "table")
    assert done.code == 0, done
    (row,) = bulk.read_complete_rows(tmp_path / "out.jsonl", 1)
    assert row["output"] == submit(service.http, "table", 2)["output"]
