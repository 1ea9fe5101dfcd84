"""What `model.toml` leaves out comes from the model's file, as Ultralytics and converters of PaddleOCR write it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from cli.models import file_commands
from model_runtime.model import Model, load_model
from model_runtime.repository.onnx_file import read_metadata
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.spec.metadata_defaults import MAX_TEXT_CHARS, fill_from_file
from model_runtime.spec.model_toml import ModelError, ModelSpec
from model_runtime.tensor_spec import TensorSpec
from tests.support.model_files import graphs
from tests.support.model_files.graphs import node

NAMES = {0: "bus", 1: "it's a tram", 2: 'a "taxi"'}
YOLO = {
    "description": "Ultralytics YOLO26n model trained on coco.yaml",
    "author": "Ultralytics",
    "version": "8.4.0",
    "stride": "32",
    "task": "detect",
    "batch": "1",
    "imgsz": "[64, 96]",
    "names": str(NAMES),
    "args": "{'batch': 1, 'half': False, 'dynamic': True, 'nms': False}",
    "channels": "3",
    "end2end": "False",
}
V5 = {"stride": "32", "names": str(NAMES)}
# A box of a tram in the middle of the input, and nothing.
RAW = np.zeros((7, 300), np.float32)
RAW[:, 0] = [48, 32, 20, 10, 0.1, 0.9, 0.2]
WITH_OBJECTNESS = np.zeros((300, 8), np.float32)
WITH_OBJECTNESS[0] = [48, 32, 20, 10, 0.9, 0.1, 1, 0.2]
SELECTED = np.zeros((300, 6), np.float32)
SELECTED[0] = [38, 27, 58, 37, 0.9, 1]


def write(folder: Path, answer: Any, metadata: dict[str, str], toml: str, *, free: bool = True) -> Path:
    """Lay out a model that answers the same for each picture, if its pixels are from 0 to 1."""
    nodes = [
        node("ReduceMax", ["images"], ["largest"], axes=[1, 2, 3], keepdims=0),
        node("LessOrEqual", ["largest", "most"], ["is_scaled"]),
        node("Cast", ["is_scaled"], ["factor"], to=1),
        node("Reshape", ["factor", "column"], ["factors"]),
        node("Mul", ["factors", "answer"], ["output0"]),
    ]
    constants = {
        "most": np.float32(1).reshape(()),
        "column": graphs.int64_constant(-1, *[1] * answer.ndim),
        "answer": answer[np.newaxis],
    }
    size: list[int | str] = ["height", "width"] if free else [64, 96]
    path = folder / "m" / "1" / "model.onnx"
    graphs.write(path, nodes, {"images": ["batch", 3, *size]}, {"output0": ["batch", *answer.shape]}, constants)
    model = onnx.load(path)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    (folder / "m" / "model.toml").write_text(toml)
    return path


def load(folder: Path) -> Model:
    (found,) = list_models(folder)
    assert isinstance(found, ModelFolder)
    return load_model(found)


def answer(model: Model, size: tuple[int, int] = (192, 192)) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", size, (255, 200, 9)).save(file, "PNG")
    parameters: dict[str, Any] = {}
    arrays = model.preprocess("image", file.getvalue(), parameters)
    outputs = model.run({name: array[np.newaxis] for name, array in arrays.items()})
    return model.postprocess({name: array[0] for name, array in outputs.items()}, parameters)


@pytest.mark.parametrize(
    ("output", "metadata", "form", "free"),
    [
        pytest.param(RAW, YOLO, "yolo", True, id="YOLOv8: free sizes"),
        pytest.param(RAW, YOLO, "yolo", False, id="YOLOv8"),
        pytest.param(SELECTED, YOLO | {"end2end": "True"}, "box-score-class", True, id="YOLO26: selected boxes"),
        pytest.param(WITH_OBJECTNESS, V5, "yolo-objectness", False, id="YOLOv5"),
    ],
)
def test_a_detector_of_ultralytics_needs_its_task_alone(
    tmp_path: Path, output: Any, metadata: dict[str, str], form: str, free: bool
) -> None:
    """A picture of 192 x 192 on 96 x 64: letterboxed, a third of its size, 16 pixels from the left."""
    write(tmp_path, output, metadata, 'task = "object-detection"', free=free)
    model = load(tmp_path)
    (found,) = answer(model)["detections"]
    assert (found["label"], found["index"], found["score"]) == ("it's a tram", 1, pytest.approx(0.9))
    assert list(found["box"].values()) == pytest.approx([66, 81, 60, 30])
    card = model.card()
    assert card["labels"] == 3
    assert card["from_file"] == [
        "3 labels of names",
        '[image] resize = [64, 96], fit = "letterbox", scale = 0.00392156862745098, background = [114, 114, 114]',
        f'[detection] format = "{form}"',
    ]


def test_a_classifier_of_ultralytics_needs_its_task_alone(tmp_path: Path) -> None:
    metadata = YOLO | {"task": "classify", "imgsz": "[64, 64]"}
    write(tmp_path, np.array([0.2, 0.5, 0.3], np.float32), metadata, 'task = "image-classification"')
    model = load(tmp_path)
    assert answer(model)["predictions"] == [
        {"label": "it's a tram", "index": 1, "probability": 0.5},
        {"label": 'a "taxi"', "index": 2, "probability": 0.3},
        {"label": "bus", "index": 0, "probability": 0.2},
    ]
    assert "[image] resize = 64, crop = [64, 64], scale" in model.card()["from_file"][1]


def test_a_classifier_of_yolov5_has_its_labels_alone(tmp_path: Path) -> None:
    write(
        tmp_path, np.array([0.2, 0.5, 0.3], np.float32), V5, 'task = "image-classification"\n[image]\nresize = [64, 64]'
    )
    assert load(tmp_path).card()["from_file"] == ["3 labels of names"]


def test_keys_of_model_toml_go_first(tmp_path: Path) -> None:
    toml = 'task = "object-detection"\n[image]\nscale = 0.001\n[detection]\nlabels = "l.txt"\nformat = "yolo"'
    path = write(tmp_path, RAW, YOLO, toml)
    (path.parent.parent / "l.txt").write_text("a\nb\nc")
    model = load(tmp_path)
    (found,) = answer(model, (96, 64))["detections"]
    assert found["label"] == "b"
    assert model.card()["from_file"] == ["[image] resize = [64, 96], scale = 0.001"]  # its size is free


@pytest.mark.parametrize("key", ["character", "dictionary"])
def test_a_classifier_of_paddle_has_its_labels(tmp_path: Path, key: str) -> None:
    toml = 'task = "image-classification"\n[image]\nscale = 0.001\n[classification]\nsoftmax = false'
    write(tmp_path, np.array([0.2, 0.8], np.float32), {key: "0\n180\n"}, toml, free=False)
    model = load(tmp_path)
    assert answer(model)["predictions"][0] == {"label": "180", "index": 1, "probability": 0.8}
    assert model.card()["from_file"] == [f"2 labels of {key}"]


def test_characters_of_another_number_are_no_labels(tmp_path: Path) -> None:
    toml = 'task = "image-classification"\n[image]\nscale = 0.001'
    write(tmp_path, np.array([0.2, 0.8], np.float32), {"character": "a\nb\nc"}, toml, free=False)
    assert answer(load(tmp_path))["predictions"][0]["label"] == "1"


@pytest.mark.parametrize(
    ("metadata", "toml", "reason"),
    [
        (YOLO | {"task": "pose"}, "", 'task: "object-detection", but the file says that it is for pose; allowed: "te'),
        (YOLO | {"task": "classify"}, "", 'for classify; allowed: "image-classification"'),
        (YOLO | {"names": "['a']"}, "", "detection.labels: the model's file has 1 labels, but the model has 3 classes"),
        (YOLO | {"imgsz": "[0, 64]"}, "", "image.resize: missing, and the model's input size is free"),
    ],
)
def test_what_does_not_fit_is_found_at_load(tmp_path: Path, metadata: dict[str, str], toml: str, reason: str) -> None:
    write(tmp_path, RAW, metadata, f'task = "object-detection"\n{toml}')
    with pytest.raises(ModelError) as caught:
        load(tmp_path)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        "__import__('os').abort()",
        "{0: 'a', 2: 'b'}",
        "{0: 'a', 1: 2}",
        "[" * 10_000,
        "(" * 300 + ")" * 300,
        "'a' * 1000000000",
        "{0: 'a'",
        "[]",
        "{[]: 1}",
        f"['{'a' * MAX_TEXT_CHARS}']",
        "\0",
    ],
    ids=range(11),
)
def test_what_is_no_list_of_names_is_left_out(names: str) -> None:
    spec, images = ModelSpec(task="object-detection"), TensorSpec("images", "FP32", (3, 64, 96))
    output = TensorSpec("output0", "FP32", (7, 300))
    found = fill_from_file(spec, {"names": names}, [images], [output], Path("model.toml"))
    assert (found.spec, found.labels, found.used) == (spec, (), [])


def test_metadata_is_read_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, RAW, YOLO, 'task = "tensor"')
    assert read_metadata(path) == YOLO
    assert load(tmp_path).card()["from_file"] == []


def test_the_doctor_says_what_a_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, RAW, YOLO, 'task = "tensor"', free=False)
    file_commands.main(["doctor", str(path)])
    said = capsys.readouterr().out
    assert "its metadata has 3 labels of names, a size of 64 x 96; " in said
    assert 'with task = "object-detection" model.toml needs no other key' in said
