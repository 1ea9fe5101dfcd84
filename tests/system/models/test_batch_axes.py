"""Models without a batch in the first dimension, over HTTP: states, constants, single items, free numbers of rows."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests.support.model_files import graphs
from tests.support.model_files.graphs import node
from tests.support.service import Service

STATEFUL = """
task = "tensor"
max_wait_ms = 20
[inputs.h]
batch_axis = 1
[inputs.rate]
value = 3
"""


def lay_out(models_dir: Path, name: str, toml: str) -> Path:
    (models_dir / name).mkdir(parents=True)
    (models_dir / name / "model.toml").write_text(toml)
    return models_dir / name / "1" / "model.onnx"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("models")
    nodes = [
        node("Cast", ["rate"], ["r"], to=TensorProto.FLOAT),
        node("Mul", ["x", "r"], ["y"]),
        node("Add", ["h", "r"], ["next"]),
    ]
    inputs: dict[str, Any] = {"x": ["", 3], "h": [2, "", 4], "rate": []}
    outputs: dict[str, Any] = {"y": ["", 3], "next": ["", "", ""]}
    graphs.write(lay_out(folder, "stateful", STATEFUL), nodes, inputs, outputs, kinds={"rate": TensorProto.INT64})
    mean = [node("ReduceMean", ["img"], ["y"], axes=[0, 1], keepdims=0)]
    graphs.write(
        lay_out(folder, "single", 'task = "tensor"\nbatch_axis = "none"'), mean, {"img": [4, 4, 3]}, {"y": [3]}
    )
    found = [node("Greater", ["x", "zero"], ["is"]), node("NonZero", ["is"], ["at"]), node("Transpose", ["at"], ["y"])]
    graphs.write(
        lay_out(folder, "found", 'task = "tensor"'),
        found,
        {"x": [1, 8]},
        {"y": ["found", 2]},
        {"zero": np.zeros((), np.float32)},
        kinds={"y": TensorProto.INT64},
    )
    parts: dict[str, Any] = {"past": ["N", 2, "past", 4], "new": ["N", 2, 1, 4]}
    joined = [node("Concat", ["past", "new"], ["all"], axis=2)]
    graphs.write(lay_out(folder, "past", 'task = "tensor"'), joined, parts, {"all": ["N", 2, "total", 4]})
    with Service(folder) as started:
        yield started


def fp32(values: Any) -> dict[str, Any]:
    array = np.asarray(values, np.float32)
    return {"datatype": "FP32", "shape": list(array.shape), "data": array.tolist()}


def run(service: Service, model: str, **tensors: dict[str, Any]) -> dict[str, Any]:
    job = {"model": model, "input": {"tensors": tensors}}
    answer = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
    assert answer["status"] == "succeeded", answer
    found: dict[str, Any] = answer["output"]["tensors"]
    return found


def as_array(tensor: dict[str, Any]) -> Any:
    return np.reshape(tensor["data"], tensor["shape"])


def test_a_state_with_its_batch_second_and_a_constant(service: Service) -> None:
    (card,) = (model for model in service.http.get("/v1/models").json()["models"] if model["name"] == "stateful")
    assert [(tensor["name"], tensor["shape"]) for tensor in card["inputs"]] == [("x", [3]), ("h", [2, 4])]
    random = np.random.default_rng(1)
    items = [(random.standard_normal(3), random.standard_normal((2, 4))) for _ in range(40)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda item: run(service, "stateful", x=fp32(item[0]), h=fp32(item[1])), items))
    for (x, h), answer in zip(items, answers, strict=True):
        assert np.allclose(as_array(answer["y"]), 3 * x, atol=1e-5)
        assert np.allclose(as_array(answer["next"]), h + 3, atol=1e-5)


def test_an_item_without_a_batch_dimension(service: Service) -> None:
    image = np.arange(48.0).reshape(4, 4, 3)
    assert np.allclose(as_array(run(service, "single", img=fp32(image))["y"]), image.mean((0, 1)))


@pytest.mark.parametrize("positive", [[], [3], [0, 2, 4, 7]])
def test_every_row_that_one_item_gives(service: Service, positive: list[int]) -> None:
    x = np.full(8, -1.0)
    x[positive] = 1
    y = run(service, "found", x=fp32(x))["y"]
    assert y["shape"] == [len(positive), 2]
    assert y["data"] == [number for at in positive for number in (0, at)]


@pytest.mark.parametrize("data", [{"data": []}, {"data": [[], []]}, {"b64": ""}])
def test_a_past_of_length_zero(service: Service, data: dict[str, Any]) -> None:
    new = np.arange(8.0).reshape(2, 1, 4)
    past = {"datatype": "FP32", "shape": [2, 0, 4], **data}
    assert np.allclose(as_array(run(service, "past", past=past, new=fp32(new))["all"]), new)
