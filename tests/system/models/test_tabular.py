"""Tabular models over HTTP, in batches, in bulk runs and offline: exact answers, and errors on their job alone."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import bulk
from tests.support.model_files import tabular
from tests.support.service import Service

FEMALE = {"age": 29, "sex": "female", "class": 2}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tabular.classifier(folder, "colors", toml='max_wait_ms = 20\n[tabular]\ncolumns = ["a", "b", "c"]')
    tabular.fares(folder, toml='task = "tabular"\nmax_rows = 4\nmax_wait_ms = 20')
    return folder


@pytest.fixture(scope="module")
def service(models_dir: Path) -> Iterator[Service]:
    with Service(models_dir) as started:
        yield started


def submit(service: Service, model: str, job_input: Any, **fields: Any) -> dict[str, Any]:
    """The job, or the problem, that a synchronous submit answers."""
    job = {"model": model, "input": job_input, **fields}
    body: dict[str, Any] = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
    return body


def test_features_a_row_and_rows(service: Service) -> None:
    assert submit(service, "fares", {"features": FEMALE})["output"] == {"value": 2129.0}
    assert submit(service, "fares", {"row": [30, "male", 1]})["output"] == {"value": 1230.0}
    rows = submit(service, "fares", {"rows": [[1, "male", 0], FEMALE, [3, None, 0]]})
    assert rows["output"] == {"rows": [{"value": 201.0}, {"value": 2129.0}, {"value": 3.0}]}
    label = submit(service, "colors", {"features": {"a": 0.25, "b": 0.5, "c": 0.125}})["output"]
    assert label == {"label": "green", "probabilities": {"blue": 0.25, "green": 0.5, "red": 0.125}}


def test_a_bad_row_fails_its_own_job_alone(service: Service) -> None:
    jobs: list[Any] = [{"row": [age, "male", 0]} for age in range(40)]
    jobs[7], jobs[9], jobs[11] = {"row": [1, "male"]}, {"row": ["x", "male", 0]}, {"rows": [[1, "male", 0], [2]]}
    body = [{"model": "fares", "input": each} for each in jobs]
    answered = service.http.post("/v1/jobs", json=body, headers={"prefer": "wait=10"}).json()["jobs"]
    errors = {at: job["error"] for at, job in enumerate(answered) if job["status"] != "succeeded"}
    failed = {at: error["message"] for at, error in errors.items()}
    assert failed.keys() == {7, 9, 11}
    assert [error.get("row") for error in errors.values()] == [None, None, 1]
    assert failed[9] == "column 'age' takes a number, or null if it is missing, not 'x'"
    assert failed[11].startswith("the row has 1 values; the model takes 3")
    values = {at: job["output"] for at, job in enumerate(answered) if at not in failed}
    assert values == {at: {"value": 200.0 + at} for at in range(40) if at not in failed}
    assert max(job["batch_size"] or 0 for job in answered) > 1


@pytest.mark.parametrize(
    ("model", "job_input", "message"),
    [
        ("fares", {"json": 1}, "model fares does not accept 'json'"),
        ("fares", {"image": "AAAA"}, "does not accept an image"),
        ("fares", {"rows": [[1, "male", 0]] * 5}, "at most 4 rows, and this one has 5"),
    ],
)
def test_inputs_that_the_model_does_not_take(service: Service, model: str, job_input: Any, message: str) -> None:
    problem = submit(service, model, job_input)
    assert (problem["status"], message in problem["detail"]) == (422, True), problem


def test_the_list_of_models_names_columns(service: Service) -> None:
    (card,) = [each for each in service.http.get("/v1/models").json()["models"] if each["name"] == "fares"]
    assert [column["name"] for column in card["columns"]] == ["age", "sex", "class"]
    assert card["input_fields"] == ["features", "row", "rows"]


def test_bulk_runs_offline_and_by_the_service_agree(service: Service, models_dir: Path, tmp_path: Path) -> None:
    inputs: list[Any] = [{"row": [at, ("male", "female")[at % 2], at % 3]} for at in range(200)]
    inputs[3] = {"row": [1]}
    inputs[5] = {"rows": [[1, "male", 0], FEMALE]}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"input": each}) + "\n" for each in inputs))
    args = (tmp_path / "in.jsonl", "-o")
    assert bulk.run(*args, tmp_path / "l.jsonl", "--local", models_dir / "fares").code == 1
    assert bulk.run(*args, tmp_path / "s.jsonl", "--url", service.url, "--model", "fares").code == 1
    local, remote = (bulk.read_complete_rows(tmp_path / name, 200) for name in ("l.jsonl", "s.jsonl"))
    assert [row["output"] for row in local] == [row["output"] for row in remote]
    assert local[4]["output"] == {"value": 1204.0}
    assert local[5]["output"] == {"rows": [{"value": 201.0}, {"value": 2129.0}]}
    assert [row["error"] and row["error"]["code"] for row in local[:5]] == [None, None, None, "invalid_input", None]


def test_a_table_is_run_by_the_columns_of_the_model(service: Service, models_dir: Path, tmp_path: Path) -> None:
    people = [
        "id;Class;name;sex;age",
        "a;2;Ann;female;29",
        "b;1;Bob;male;",
        "c;x;Cy;male;3",
        "d;3.0;Di;;4",
        "e;1;Ed;male;nan",
    ]
    (tmp_path / "people.csv").write_text("\n".join(people))
    args = (tmp_path / "people.csv", "-o")
    local = bulk.run(*args, tmp_path / "l.jsonl", "--local", models_dir / "fares")
    remote = bulk.run(*args, tmp_path / "s.jsonl", "--url", service.url, "--model", "fares")
    assert (local.code, remote.code) == (1, 1), (local, remote)
    for name in ("l.jsonl", "s.jsonl"):
        rows = bulk.read_complete_rows(tmp_path / name, 5)
        assert [row["id"] for row in rows] == ["a", "b", "c", "d", "e"]
        values = [row["output"] and row["output"]["value"] for row in rows]
        assert values == [2129.0, None, None, 3004.0, None]  # a missing age has no sum
        assert rows[2]["error"]["message"] == "column 'class': 'x' does not fit"
    assert bulk.run(*args, tmp_path / "t.csv", "--local", models_dir / "fares").code == 1
    assert [row["value"] for row in csv.DictReader((tmp_path / "t.csv").read_text().splitlines())] == [
        "2129.0",
        "",
        "",
        "3004.0",
        "",
    ]
    (tmp_path / "colors.csv").write_text("a,b,c\n0.25,0.5,0.125\n")
    assert bulk.run(tmp_path / "colors.csv", "-o", tmp_path / "c.csv", "--local", models_dir / "colors").code == 0
    (row,) = csv.DictReader((tmp_path / "c.csv").read_text().splitlines())
    assert (row["label"], row["probability"], row["value"]) == ("green", "0.5", "")
    (tmp_path / "few.csv").write_text("sex,age\nmale,3\n")
    lacking = bulk.run(tmp_path / "few.csv", "-o", tmp_path / "f.jsonl", "--local", models_dir / "fares")
    assert (lacking.code, "few.csv lacks columns of the model: class" in lacking.said) == (2, True), lacking


def test_models_of_converters_from_the_field(shared_data: Path, tmp_path: Path) -> None:
    cases = shared_data.parent / "cases" / "models"
    expected = json.loads((cases / "expected.json").read_text())
    for name in ("rf_zipmap_str", "titanic", "rf_fixed1", "lightgbm_label_shape_1"):
        (tmp_path / name / "1").mkdir(parents=True)
        shutil.copy(cases / f"{name}.onnx", tmp_path / name / "1" / "model.onnx")
        (tmp_path / name / "model.toml").write_text('task = "tabular"')
    with Service(tmp_path) as service:
        for case in expected.values():
            name = case["model"].removesuffix(".onnx")
            if not (tmp_path / name).is_dir():
                continue
            values = [value for rows in case["inputs"].values() for value in rows[0]]
            output = submit(service, name, {"row": values})["output"]
            label, probabilities = (values[0] for values in case["outputs"].values())
            assert output["label"] == label
            numbers = probabilities.values() if isinstance(probabilities, dict) else probabilities
            assert [*output["probabilities"].values()] == pytest.approx([*numbers], abs=1e-5), name
