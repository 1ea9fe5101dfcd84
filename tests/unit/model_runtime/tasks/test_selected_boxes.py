"""Detectors that select their boxes themselves: one output of sides, score and class."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_runtime.model import Model, load_model
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.spec.model_toml import ModelError
from tests.support.model_files import graphs
from tests.support.model_files.graphs import node

TOML = """task = "object-detection"
[image]
fit = "letterbox-corner"
[detection]
format = "box-score-class"
"""
# Two boxes of one class that overlap, one of a class without a label, and padding.
BOXES = [[8, 4, 24, 12, 0.9, 1], [8, 4, 24, 13, 0.8, 1], [0, 0, 4, 4, 0.5, 7], [0, 0, 0, 0, 0, 0], [1, 1, 2, 2, 0.1, 0]]


def load(folder: Path, toml: str = TOML) -> Model:
    """A detector that finds BOXES in each picture, of an input of 32 by 32."""
    nodes = [
        node("ReduceSum", ["image", "sides"], ["sum"], keepdims=0),
        node("Unsqueeze", ["sum", "places"], ["column"]),
        node("Mul", ["column", "zero"], ["nothing"]),
        node("Add", ["nothing", "boxes"], ["y"]),
    ]
    constants = {
        "sides": graphs.int64_constant(1, 2, 3),
        "places": graphs.int64_constant(1, 2),
        "zero": np.zeros((1, 1, 1), np.float32),
        "boxes": np.array([BOXES], np.float32),
    }
    path = folder / "found" / "1" / "model.onnx"
    graphs.write(path, nodes, {"image": ["N", 3, 32, 32]}, {"y": ["N", 5, 6]}, constants)
    (folder / "found" / "labels.txt").write_text("cat\ndog")
    (folder / "found" / "model.toml").write_text(toml)
    (found,) = list_models(folder)
    assert isinstance(found, ModelFolder)
    return load_model(found)


def detect(model: Model, size: tuple[int, int], **parameters: Any) -> list[dict[str, Any]]:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    arrays = model.preprocess("image", file.getvalue(), parameters)
    outputs = model.run({name: array[np.newaxis] for name, array in arrays.items()})
    answer = model.postprocess({name: array[0] for name, array in outputs.items()}, parameters)
    found: list[dict[str, Any]] = answer["detections"]
    return found


def test_selected_boxes_are_answered_in_pixels_of_the_picture(tmp_path: Path) -> None:
    """A picture of 64 by 32 is halved and lies in the top left corner; nothing is suppressed again."""
    model = load(tmp_path, TOML + 'labels = "labels.txt"')
    found = detect(model, (64, 32))
    assert [(each["label"], each["index"], each["score"]) for each in found] == [
        ("dog", 1, 0.9), ("dog", 1, 0.8), ("7", 7, 0.5),
    ]  # fmt: skip
    assert found[0]["box"] == {"x": 16, "y": 8, "width": 32, "height": 16}
    assert len(detect(model, (64, 32), iou_threshold=0.5)) == 2
    assert len(detect(model, (64, 32), score_threshold=0.05)) == 4
    assert len(detect(model, (64, 32), max_detections=1)) == 1


def test_the_format_needs_six_numbers_of_a_box(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="softmax needs scores of several classes"):
        load(tmp_path, TOML + 'scores = "softmax"')
    nodes, shape = [node("Reshape", ["image", "to"], ["y"])], {"to": graphs.int64_constant(-1, 96, 32)}
    path = tmp_path / "found" / "1" / "model.onnx"
    graphs.write(path, nodes, {"image": ["N", 3, 32, 32]}, {"y": ["N", 96, 32]}, shape)
    (tmp_path / "found" / "model.toml").write_text(TOML)
    (folder,) = list_models(tmp_path)
    assert isinstance(folder, ModelFolder)
    with pytest.raises(ModelError, match=r"\[boxes, 6\]"):
        load_model(folder)


def test_the_detector_from_the_field(shared_data: Path, tmp_path: Path) -> None:
    """It answers two boxes in an input of 640 by 640, whatever the picture."""
    (tmp_path / "field" / "1").mkdir(parents=True)
    case = shared_data.parent / "cases" / "models" / "detections_n_300_6.onnx"
    shutil.copy(case, tmp_path / "field" / "1" / "model.onnx")
    (tmp_path / "field" / "model.toml").write_text('task = "object-detection"\n[detection]\nformat = "box-score-class"')
    (folder,) = list_models(tmp_path)
    assert isinstance(folder, ModelFolder)
    found = detect(load_model(folder), (640, 640))
    boxes = [(each["index"], each["score"], *each["box"].values()) for each in found]
    assert boxes == [(17, pytest.approx(0.91), 100, 120, 200, 280), (2, pytest.approx(0.55), 10, 20, 50, 70)]
