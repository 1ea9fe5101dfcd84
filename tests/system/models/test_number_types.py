"""Tensors of every type of floats over HTTP: null is NaN, NaN and infinity are null in answers and exact in base64."""

import base64
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from model_runtime.bfloat16 import to_bf16
from model_runtime.tensor_spec import Array
from tests.support.model_files import graphs, text
from tests.support.service import Service

TYPES = {
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}
# As the bytes of each datatype.
VALUES = [1.5, float("nan"), float("inf"), float("-inf")]
BYTES = {
    "FP16": struct.pack("<4e", *VALUES),
    "BF16": bytes.fromhex("c03fc07f807f80ff"),
    "FP32": struct.pack("<4f", *VALUES),
    "FP64": struct.pack("<4d", *VALUES),
}
SHOWN = [1.5, None, None, None]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("models")
    for name, kind in TYPES.items():
        same = folder / name.lower()
        graphs.write(
            same / "1" / "model.onnx",
            [graphs.node("Identity", ["x"], ["y"])],
            {"x": ["N", 4]},
            {"y": ["N", 4]},
            kinds={"x": kind, "y": kind},
        )
        (same / "model.toml").write_text('task = "tensor"')
    # log(x): NaN of a negative number, minus infinity of 0
    for name, task in (("logarithm", "tabular"), ("scores", "tensor")):
        graphs.write(
            folder / name / "1" / "model.onnx", [graphs.node("Log", ["x"], ["y"])], {"x": ["N", 3]}, {"y": ["N", 3]}
        )
        (folder / name / "model.toml").write_text(f'task = "{task}"')
    text.ranker(folder)
    text.undefined_ranker(folder)
    with Service(folder) as started:
        yield started


def submit(service: Service, model: str, job_input: Any, **fields: Any) -> dict[str, Any]:
    job = {"model": model, "input": job_input, **fields}
    body: dict[str, Any] = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
    return body


def tensor(datatype: str, shape: list[int], **values: Any) -> dict[str, Any]:
    return {"tensors": {"x": {"datatype": datatype, "shape": shape, **values}}}


@pytest.mark.parametrize("datatype", TYPES)
def test_numbers_that_are_none(service: Service, datatype: str) -> None:
    model, encoded = datatype.lower(), base64.b64encode(BYTES[datatype]).decode()
    by_data = submit(service, model, tensor(datatype, [4], data=[1.5, None, -0.5, 2]))
    assert by_data["output"]["tensors"]["y"] == {"datatype": datatype, "shape": [4], "data": [1.5, None, -0.5, 2]}
    by_bytes = submit(service, model, tensor(datatype, [4], b64=encoded))
    assert by_bytes["output"]["tensors"]["y"]["data"] == SHOWN
    exact = submit(service, model, tensor(datatype, [4], b64=encoded), parameters={"encoding": "base64"})
    assert exact["output"]["tensors"]["y"] == {"datatype": datatype, "shape": [4], "b64": encoded}
    nested = [[1.5, None, 0, 0], [None, 1, 2, 3]]
    rows = submit(service, model, tensor(datatype, [2, 4], data=nested), rows=2)
    assert rows["output"]["tensors"]["y"] == {
        "datatype": datatype,
        "shape": [2, 4],
        "data": [1.5, None, 0, 0, None, 1, 2, 3],
    }


@pytest.mark.parametrize("datatype", TYPES)
def test_raw_bodies_have_the_bytes_of_the_type(service: Service, datatype: str) -> None:
    model = datatype.lower()
    job = service.submit(
        BYTES[datatype], "application/octet-stream", wait=10, model=model, parameters='{"encoding":"base64"}'
    ).json()
    raw = service.http.get(f"/v1/jobs/{job['id']}/output", headers={"accept": "application/octet-stream"})
    assert (raw.headers["jitney-datatype"], raw.headers["jitney-shape"]) == (datatype, "4")
    assert raw.content == BYTES[datatype]
    wrong = service.submit(BYTES[datatype][:-1], "application/octet-stream", wait=10, model=model).json()
    assert (wrong["status"], wrong["code"]) == (422, "invalid_input")


def test_numbers_are_rounded_to_bf16(service: Service) -> None:
    numbers: Array = np.array([0.1, 1 + 2**-8, 1 + 3 * 2**-8, -3.14159], np.float32)
    sent: list[float] = numbers.tolist()
    answer = submit(service, "bf16", tensor("BF16", [4], data=sent))["output"]["tensors"]["y"]["data"]
    assert answer == [0.100097656, 1, 1.015625, -3.140625]
    encoded = submit(service, "bf16", tensor("BF16", [4], data=sent), parameters={"encoding": "base64"})
    assert base64.b64decode(encoded["output"]["tensors"]["y"]["b64"]) == to_bf16(numbers).tobytes()
    refused = submit(service, "bf16", tensor("BF16", [4], data=[1, 1, 1, 3.4e38]))
    assert (refused["status"], "a value does not fit BF16" in refused["detail"]) == (422, True)
    other = submit(service, "bf16", tensor("FP32", [4], data=[1, 1, 1, 1]))
    assert other["detail"] == "tensor 'x' has datatype BF16, not 'FP32'"


def test_rows_of_a_table(service: Service) -> None:
    """A missing value is NaN for the model. NaN and infinity that it makes are null."""
    one = submit(service, "logarithm", {"row": [None, 0, 1]})["output"]
    assert one == {"values": [None, None, 0]}
    rows = submit(service, "logarithm", {"rows": [[-1, 1, 1], [1, None, 1], [1, 1, 1]]})["output"]["rows"]
    assert [row["values"] for row in rows] == [[None, 0, 0], [0, None, 0], [0, 0, 0]]
    tensors = submit(service, "scores", tensor("FP32", [3], data=[-1, 0, None]))["output"]["tensors"]["y"]
    assert tensors["data"] == [None, None, None]
    exact = submit(service, "scores", tensor("FP32", [3], data=[1, 0, None]), parameters={"encoding": "base64"})
    zero, infinite, missing = struct.unpack("<3f", base64.b64decode(exact["output"]["tensors"]["y"]["b64"]))
    assert (zero, infinite, np.isnan(missing)) == (0, float("-inf"), True)


def test_a_score_that_is_no_number_fails_its_job_alone(service: Service) -> None:
    """A ranking cannot place a document by it."""
    good = {"query": "red", "documents": ["blue", "green"]}
    bad = {**good, "documents": ["blue", "Anna"]}
    jobs = [{"model": "undefined", "input": each} for each in (good, bad, good)]
    answered = service.http.post("/v1/jobs", json=jobs, headers={"prefer": "wait=10"}).json()["jobs"]
    assert [job["status"] for job in answered] == ["succeeded", "failed", "succeeded"]
    error = answered[1]["error"]
    assert (error["code"], error["row"]) == ("inference_failed", 1)
    assert error["message"] == "the model's output for this pair of texts is not a number"
    body = {"model": "undefined", "query": "red", "documents": ["blue", "Anna"]}
    problem = service.http.post("/v1/rerank", json=body)
    assert (problem.status_code, problem.json()["code"], problem.json()["row"]) == (422, "inference_failed", 1)
