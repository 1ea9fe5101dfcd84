"""Jobs of several rows over HTTP: joined outputs, one bad row, cancel, limits."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from onnx import TensorProto

from tests.support import bulks, models
from tests.support.model_files import graphs
from tests.support.model_files.graphs import node
from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("models")
    models.doubling(folder, toml='task = "tensor"\nmax_batch = 8\nmax_wait_ms = 20')
    models.doubling(folder, "few", toml='task = "tensor"\nmax_rows = 3')
    models.doubling(folder, "counted", toml='task = "tensor"\nmax_batch = 8')
    models.poison(folder)
    models.slow(folder)
    models.picking(folder)
    (folder / "pick" / "model.toml").write_text('task = "tensor"\nmax_batch = 8\nmax_wait_ms = 100\nbatching = "trust"')
    (folder / "digits").symlink_to(ROOT / "models" / "digits")
    found = [node("Greater", ["x", "zero"], ["is"]), node("NonZero", ["is"], ["at"]), node("Transpose", ["at"], ["y"])]
    (folder / "found").mkdir()
    (folder / "found" / "model.toml").write_text('task = "tensor"')
    path = folder / "found" / "1" / "model.onnx"
    zero = {"zero": np.zeros((), np.float32)}
    graphs.write(path, found, {"x": [1, 8]}, {"y": ["found", 2]}, zero, kinds={"y": TensorProto.INT64})
    with Service(folder) as started:
        wait_until(lambda: len(started.http.get("/v1/models").json()["models"]) == 8, "all models are served")
        yield started


def fp32(values: Any) -> dict[str, Any]:
    array = np.asarray(values, np.float32)
    return {"datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}


def doubling(values: Any, model: str = "double", **fields: Any) -> dict[str, Any]:
    return {"model": model, "rows": len(values), "input": {"tensors": {"x": fp32(values)}}, **fields}


def picking(*rows: int) -> dict[str, Any]:
    x = {"datatype": "INT64", "shape": [len(rows), 1], "data": list(rows)}
    return {"model": "pick", "rows": len(rows), "input": {"tensors": {"x": x}}}


def post(service: Service, job: Any, wait: int = 20) -> httpx2.Response:
    return service.http.post("/v1/jobs", json=job, headers={"prefer": f"wait={wait}"} if wait else {})


def numbers(rows: int) -> Any:
    return np.arange(rows * 4, dtype=np.float32).reshape(rows, 4) / 8


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_the_rows_have_the_results_of_single_jobs_in_their_order(service: Service, rows: int) -> None:
    """64 rows ride in batches of 8."""
    job = post(service, doubling(numbers(rows))).json()
    singles = [{"model": "double", "input": {"tensors": {"x": fp32(row)}}} for row in numbers(rows)]
    alone = post(service, singles).json()["jobs"]
    joined = job["output"]["tensors"]["y"]
    assert (job["status"], joined["datatype"], joined["shape"]) == ("succeeded", "FP32", [rows, 4])
    assert joined["data"] == [value for one in alone for value in one["output"]["tensors"]["y"]["data"]]
    assert 1 <= job["batch_size"] <= 8
    assert job["attempts"] == 1
    timings = job["timings"]
    assert 0 < timings["decode"] + timings["batch"] + timings["infer"] <= timings["total"]


def test_raw_rows_lie_one_after_the_other_and_base64_is_joined_too(service: Service) -> None:
    body = numbers(3).tobytes()
    octets = "application/octet-stream"
    answer = service.submit(body, octets, 20, model="double", rows="3", parameters='{"encoding": "base64"}').json()
    tensor = answer["output"]["tensors"]["y"]
    assert tensor["shape"] == [3, 4]
    assert np.array_equal(np.frombuffer(base64.b64decode(tensor["b64"]), np.float32).reshape(3, 4), 2 * numbers(3))
    raw = service.http.get(f"/v1/jobs/{answer['id']}/output", headers={"accept": octets}).content
    assert np.array_equal(np.frombuffer(raw, np.float32).reshape(3, 4), 2 * numbers(3))


def test_one_bad_row_fails_its_job_by_its_index_and_no_other_job(service: Service) -> None:
    """They wait for one another, so that they share batches."""
    good = {"model": "pick", "input": {"tensors": {"x": {"datatype": "INT64", "shape": [1], "data": [3]}}}}
    lines = [good, picking(1, 2, 99, 0, 3), good, picking(0, 3), good]
    answers = post(service, lines).json()["jobs"]
    assert [one["status"] for one in answers] == ["succeeded", "failed", *["succeeded"] * 3]
    error = answers[1]["error"]
    assert (error["code"], error["row"], error["status"]) == ("inference_failed", 2, 422)
    assert answers[3]["output"]["tensors"]["y"] == {"datatype": "FP32", "shape": [2, 1], "data": [0.0, 3.0]}


def test_a_dead_letter_of_rows_is_replayed_with_its_rows(service: Service) -> None:
    failed = post(service, picking(1, 99)).json()
    letter = service.http.get(f"/v1/deadletters/{failed['id']}").json()
    assert letter["error"]["row"] == 1
    again = service.http.post(f"/v1/deadletters/{failed['id']}/replay").json()
    assert service.final(again["id"])["error"]["row"] == 1


def test_rows_whose_outputs_have_other_shapes_cannot_be_joined(service: Service) -> None:
    x = np.zeros((2, 8), np.float32)
    x[0, :2], x[1, :3] = 1, 1
    answer = post(service, doubling(x, "found")).json()
    assert (answer["status"], answer["error"]["code"], answer["error"]["row"]) == ("failed", "inference_failed", 1)
    assert "send one job for each row" in answer["error"]["message"]
    x[0, 2] = 1
    assert post(service, doubling(x, "found")).json()["output"]["tensors"]["y"]["shape"] == [2, 3, 2]


def test_an_error_of_the_whole_input_names_no_row(service: Service) -> None:
    unknown = post(service, doubling(numbers(2), parameters={"encoding": "hex"})).json()["error"]
    assert (unknown["code"], "row" in unknown) == ("invalid_request", False)


def test_canceling_drops_all_rows_and_the_next_job_runs_at_once(service: Service) -> None:
    """50 ms a row: 64 rows take more than three seconds."""
    job = post(service, doubling(numbers(64) + 1, "slow"), wait=0).json()
    wait_until(lambda: service.http.get(f"/v1/jobs/{job['id']}").json()["status"] == "running", "it runs")
    assert service.http.delete(f"/v1/jobs/{job['id']}").status_code == 200
    answer = post(service, doubling(numbers(1) + 1, "slow")).json()
    assert answer["status"] == "succeeded"
    assert answer["timings"]["total"] < 2000
    assert service.http.get(f"/v1/jobs/{job['id']}").json()["status"] == "canceled"


def test_a_deadline_ends_the_whole_job_once(service: Service) -> None:
    answer = post(service, doubling(numbers(64) + 1, "slow", deadline_ms=600)).json()
    assert (answer["status"], answer["error"]["code"], "row" in answer["error"]) == (
        "expired",
        "deadline_exceeded",
        False,
    )
    assert post(service, doubling(numbers(1) + 1, "slow")).json()["status"] == "succeeded"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "more than max_rows": (doubling(numbers(4), "few"), "at most 3 rows, and this one has 4"),
    "more than the default": (doubling(numbers(65)), "at most 64 rows"),
    "none": ({**doubling(numbers(1)), "rows": 0}, "at least 1"),
    "text": ({**doubling(numbers(1)), "rows": "1"}, "whole number"),
    "a bool": ({**doubling(numbers(1)), "rows": True}, "whole number"),
    "another shape": (
        {**doubling(numbers(2)), "rows": 3},
        "has shape [3, 4] (-1 = any size, the rows first), not [2, 4]",
    ),
    "no dimension of rows": ({**doubling(numbers(2)[0]), "rows": 1}, "has shape [1, 4]"),
    "a custom task": (doubling(numbers(2), "poison"), "takes no rows"),
    "an image task": ({"model": "digits", "rows": 1, "input": {"image": "AAAA"}}, "takes no rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_a_model_cannot_take_are_refused(service: Service, name: str) -> None:
    job, message = REFUSED[name]
    answer = post(service, job)
    problem = answer.json()
    assert (answer.status_code, problem["code"] in {"invalid_request", "invalid_input"}) == (422, True)
    assert message in problem["detail"], problem
    entry = post(service, [job]).json()["jobs"][0]["error"]
    assert message in entry["message"]


def test_raw_rows_of_another_length_and_of_an_image_are_refused(service: Service) -> None:
    octets = "application/octet-stream"
    answer = service.submit(numbers(2).tobytes(), octets, model="double", rows="3").json()
    assert answer["detail"] == "model double takes 16 bytes for each of 3 rows, not 32"
    assert "whole number" in service.submit(numbers(2).tobytes(), octets, model="double", rows="x").json()["detail"]
    assert "takes no rows" in service.submit(DIGITS[0].read_bytes(), model="digits", rows="1").json()["detail"]
    form = service.http.post("/v1/jobs", files={"image": DIGITS[0].read_bytes()}, data={"model": "digits", "rows": "1"})
    assert (form.status_code, "takes no rows" in form.json()["detail"]) == (422, True)


def test_rows_are_a_part_of_what_an_idempotency_key_stands_for(service: Service) -> None:
    body = numbers(1).tobytes()
    headers = {"idempotency-key": "rows", "content-type": "application/octet-stream"}
    first = service.http.post("/v1/jobs?model=double&rows=1", content=body, headers=headers).json()
    same = service.http.post("/v1/jobs?model=double&rows=1", content=body, headers=headers).json()
    other = service.http.post("/v1/jobs?model=double", content=body, headers=headers)
    assert (same["id"], other.json()["code"]) == (first["id"], "idempotency_mismatch")


def test_lines_of_a_bulk_job_may_have_rows(service: Service) -> None:
    bodies = {"many": doubling(numbers(20)), "bad": picking(0, 99), "too-many": doubling(numbers(4), "few")}
    head = {"method": "POST", "url": "/v1/jobs"}
    lines = [json.dumps({"custom_id": name, **head, "body": body}) for name, body in bodies.items()]
    with bulks.client(service.url) as ai:
        batch = bulks.wait_for_end(ai, bulks.start_batch(ai, lines))
        (good,), bad = bulks.check_batch(ai, batch, [*bodies])
    assert good["response"]["body"]["output"]["tensors"]["y"]["shape"] == [20, 4]
    failed = {one["custom_id"]: one for one in bad}
    assert failed["bad"]["response"]["body"]["error"]["row"] == 1
    assert "at most 3 rows" in failed["too-many"]["error"]["message"]


def test_the_card_says_the_most_rows(service: Service) -> None:
    found = {card["name"]: card["max_rows"] for card in service.http.get("/v1/models").json()["models"]}
    others = dict.fromkeys(("double", "counted", "slow", "pick", "found"), 64)
    assert found == {**others, "few": 3, "poison": None, "digits": None}


def test_batches_of_rows_are_in_the_metrics(service: Service) -> None:
    assert post(service, doubling(numbers(20), "counted")).json()["batch_size"] == 8

    def counted(name: str) -> float:
        lines = service.http.get("/metrics").text.splitlines()
        (line,) = [line for line in lines if line.startswith(f'jitney_batch_size_{name}{{model="counted"}}')]
        return float(line.split()[1])

    wait_until(lambda: counted("sum") == 20, "all rows are counted")
    assert (counted("count"), counted("sum")) == (3, 20)


def test_a_crash_runs_the_whole_job_again(tmp_path: Path) -> None:
    models.slow(tmp_path / "models")
    with Service(tmp_path / "models") as service:
        job = post(service, doubling(numbers(20) + 1, "slow"), wait=0).json()
        wait_until(lambda: service.http.get(f"/v1/jobs/{job['id']}").json()["status"] == "running", "it runs")
        service.kill("worker")
        ended = service.final(job["id"], 40)
        assert (ended["status"], ended["attempts"]) == ("succeeded", 2)
        assert ended["output"]["tensors"]["y"]["data"] == (2 * (numbers(20) + 1)).ravel().tolist()


def test_a_quota_counts_rows_and_large_outputs_are_joined(tmp_path: Path) -> None:
    wide = tmp_path / "models" / "wide"
    wide.mkdir(parents=True)
    (wide / "model.toml").write_text('task = "tensor"')
    graphs.write(wide / "1" / "model.onnx", [node("Add", ["x", "x"], ["y"])], {"x": ["N", 30000]}, {"y": ["N", 30000]})
    with Service(tmp_path / "models", {"JITNEY_TENANT_JOBS": "10", "JITNEY_MAX_BODY_BYTES": "20000000"}) as service:
        x = np.arange(10 * 30000, dtype=np.float32)
        octets = "application/octet-stream"
        answer = service.submit(x.tobytes(), octets, 30, model="wide", rows="10")
        tensor = answer.json()["output"]["tensors"]["y"]
        assert tensor["shape"] == [10, 30000]
        assert np.array_equal(np.array(tensor["data"], np.float32), 2 * x)
        refused = service.submit(x.tobytes() + x.tobytes()[:120000], octets, model="wide", rows="11").json()
        assert (refused["code"], refused["limit"]) == ("invalid_request", 10)
