"""From folder to answer: a real network on real photographs, and the card that announces a model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.contract.errors import Refused
from model_runtime.engine.device_info import device_name
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.tensor_spec import Array

Relu = Callable[..., Path]
FILES = {
    "fp32": "squeezenet1.1_fp32_dynbatch.derived.onnx",
    "fp16": "squeezenet1.1_fp16.onnx",
}
# Where the models of this world agree, by the README of the test data.
TOP_1 = [
    *("goldfish.jpg", "wolves.jpg", "hotdog.png", "husky.jpg", "kitten_224.png"),
    *("golden_retriever_small.jpg", "mug.jpg", "vulture.jpeg", "cat_rgba.png"),
]
TOML = """
task = "image-classification"
threads = 1
max_batch = 16
[image]
resize = 256
crop = 224
color = "BGR"
mean = [104, 117, 123]
[classification]
labels = "labels.txt"
softmax = false
"""


def load_only(models_dir: Path) -> Model:
    [found] = list_models(models_dir)
    assert isinstance(found, ModelFolder)
    return load_model(found)


def answers(model: Model, items: list[dict[str, Array]]) -> list[dict[str, Any]]:
    """Stack, run, split, postprocess."""
    outputs = model.run({name: np.stack([item[name] for item in items]) for name in items[0]})
    return [
        model.postprocess({name: rows[at] for name, rows in outputs.items()}, {"top_k": 3})["predictions"][0]
        for at in range(len(items))
    ]


@pytest.fixture(params=FILES)
def squeezenet(request: pytest.FixtureRequest, tmp_path: Path, shared_data: Path) -> Model:
    folder = tmp_path / f"squeezenet-{request.param}"
    (folder / "1").mkdir(parents=True)
    shutil.copy(shared_data / "models" / FILES[request.param], folder / "1" / "model.onnx")
    (folder / "model.toml").write_text(TOML)
    synset = (shared_data / "labels" / "synset.txt").read_text(encoding="utf-8")
    (folder / "labels.txt").write_text("\n".join(line.partition(" ")[2] for line in synset.splitlines()), "utf-8")
    return load_only(tmp_path)


def test_squeezenet_gives_the_reference_answers(squeezenet: Model, shared_data: Path) -> None:
    reference = json.loads((shared_data / "reference_top5.json").read_text())["images"]
    photos = {name: (shared_data / "photos" / name).read_bytes() for name in TOP_1}
    items = [squeezenet.preprocess("image", data, {"top_k": 3}) for data in photos.values()]
    alone = [answers(squeezenet, [item])[0] for item in items]
    for name, answer in zip(photos, alone, strict=True):
        wanted = reference[name]["top5"][0]
        assert (answer["label"], answer["index"]) == (wanted["label"], wanted["index"])
        assert answer["probability"] >= 0.6
        assert answer["probability"] == pytest.approx(wanted["p"], abs=0.02)
    if squeezenet.max_batch > 1:
        assert answers(squeezenet, items) == alone, "a batch gives everyone the same answer as being alone"


def test_the_card_of_squeezenet(squeezenet: Model) -> None:
    card = json.loads(json.dumps(squeezenet.card()))
    half = squeezenet.name.endswith("fp16")
    assert card.pop("load_ms") > 0
    assert card.pop("placement").keys() == {"cpu"}
    assert "auto uses the CPU: " in card.pop("provider_note")
    assert card.pop("batch_note") == ("input 'data_0' has its first dimension fixed at 1" if half else "")
    drift = card.pop("drift")
    assert drift is None if half else 0 <= drift < 1e-3
    assert card == {
        "name": squeezenet.name,
        "version": "1",
        "task": "image-classification",
        "description": "",
        "kinds": ["image"],
        "input_fields": [],
        "columns": [],
        "inputs": [{"name": "data_0", "datatype": "FP16" if half else "FP32", "shape": [3, 224, 224]}],
        "outputs": [{"name": "softmaxout_1", "datatype": "FP16" if half else "FP32", "shape": [1000, 1, 1]}],
        "unbatched": [],
        "max_batch": 1 if half else 16,
        "run_ms": {},
        "batchable": not half,
        "provider": card["provider"],
        "requested_provider": "auto",
        "buckets": [],
        "lengths": None,
        "gpu": None,
        "device": device_name("cpu", 1),
        "profiles": [],
        "checked": None if half else True,
        "limits": {"max_pixels": 50_000_000},
        "raw_bytes": None,
        "deadline_ms": None,
        "max_output_bytes": 64 << 20,
        "max_rows": None,
        "labels": 1000,
        "from_file": [],
    }


def test_mnist_reads_digits_with_almost_no_settings(tmp_path: Path, shared_data: Path) -> None:
    folder = tmp_path / "mnist"
    (folder / "8").mkdir(parents=True)
    shutil.copy(shared_data / "models" / "mnist-8" / "model.onnx", folder / "8" / "model.onnx")
    (folder / "model.toml").write_text('task = "image-classification"\nthreads = 1\n[image]\ncolor = "gray"')
    model = load_only(tmp_path)
    for digit in "0357":
        item = model.preprocess("image", (shared_data / "digits" / f"{digit}.jpg").read_bytes(), {})
        assert answers(model, [item])[0]["label"] == digit


def test_the_card_of_a_tensor_model(relu: Relu, tmp_path: Path) -> None:
    relu('task = "tensor"\nprovider = "cpu"\ndeadline_ms = 900\ndescription = "max(x, 0)"', ["N", 2, 3])
    card = load_only(tmp_path).card()
    assert (card["kinds"], card["raw_bytes"], card["limits"]) == (["raw", "tensors"], 24, {"max_pixels": None})
    assert (card["provider"], card["requested_provider"]) == ("cpu", "cpu")
    assert (card["deadline_ms"], card["labels"]) == (900, None)
    assert card["description"] == "max(x, 0)"


def test_a_kind_of_input_the_task_does_not_take_is_refused(relu: Relu, tmp_path: Path) -> None:
    relu('task = "tensor"', ["N", "S"])
    with pytest.raises(Refused, match="model relu takes tensors as input, not image") as caught:
        load_only(tmp_path).preprocess("image", b"", {})
    assert caught.value.code == "invalid_input"
