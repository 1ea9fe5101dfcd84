"""What the task `image-segmentation` accepts at load, and which outputs it refuses, without a runtime."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.contract.errors import Refused
from model_runtime.output_encoding import Base64
from model_runtime.spec.model_toml import ModelError, ModelSpec
from model_runtime.tasks import Task, load_task
from model_runtime.tensor_spec import Array, TensorSpec

PIXELS = TensorSpec("pixels", "FP32", (3, 8, 8))


def load(folder: Path, shape: tuple[int, ...], datatype: str = "FP32", **keys: Any) -> Task:
    (folder / "labels.txt").write_text("sky\nroad\ncar")
    spec = ModelSpec.model_validate({"task": "image-segmentation", "segmentation": keys})
    return load_task(spec, folder, [PIXELS], [TensorSpec("y", datatype, shape), TensorSpec("aux", "FP32", (3, 4, 4))])


@pytest.mark.parametrize(
    ("shape", "datatype", "keys", "reason"),
    [
        ((3,), "FP32", {}, "the output 'y' is FP32 [3] per row; allowed: [classes, h, w] or [h, w]"),
        ((4, 4), "BYTES", {}, "the output 'y' is BYTES [4, 4] per row"),
        ((256, 4, 4), "FP32", {}, "[256, 4, 4] per row, read as [classes, h, w]; allowed: 1 to 255 classes"),
        ((3, 4, 300), "FP32", {"layout": "NHWC"}, "read as [h, w, classes]"),
        ((3, 4, 4), "INT64", {}, "output 'y' is INT64 [3, 4, 4] per row; allowed: integers [h, w], or scores"),
        ((4, 4, 4), "FP32", {"labels": "labels.txt"}, "3 labels, but the model has 4 classes"),
        ((1, 4, 4), "FP32", {"labels": "labels.txt"}, "the model has 2 classes, background and foreground"),
        ((4, 4), "FP32", {"output": "z"}, "there is no output 'z'; allowed: y, aux"),
    ],
)
def test_an_unsuitable_output_is_found_at_load(
    tmp_path: Path, shape: tuple[int, ...], datatype: str, keys: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError) as caught:
        load(tmp_path, shape, datatype, **keys)
    assert reason in str(caught.value)


def answer(task: Task, **outputs: Array) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    parameters: dict[str, Any] = {}
    task.preprocess("image", file.getvalue(), parameters)
    return task.postprocess(outputs, parameters)


def mask_of(found: dict[str, Any]) -> Any:
    assert isinstance(found["mask"], Base64)
    with Image.open(io.BytesIO(found["mask"].raw())) as image:
        return np.asarray(image).tolist()


def test_classes_may_be_the_first_or_the_last_dimension(tmp_path: Path) -> None:
    scores = np.eye(3, dtype=np.float32)[np.arange(16).reshape(4, 4) % 3]
    expected = (np.arange(16).reshape(4, 4) % 3).tolist()
    assert mask_of(answer(load(tmp_path, (4, 4, 3), layout="NHWC"), y=scores)) == expected
    assert mask_of(answer(load(tmp_path, (3, 4, 4)), y=np.moveaxis(scores, 2, 0))) == expected
    assert mask_of(answer(load(tmp_path, (-1, 4, 4)), y=np.moveaxis(scores, 2, 0).astype(np.float16))) == expected
    assert mask_of(answer(load(tmp_path, (3, 4), output="aux"), aux=np.moveaxis(scores, 2, 0))) == expected


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT32", "INT64"])
@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4)])
def test_integers_are_classes(tmp_path: Path, datatype: str, shape: tuple[int, ...]) -> None:
    found = answer(load(tmp_path, shape, datatype, labels="labels.txt"), y=np.ones(shape, datatype.lower()))
    assert mask_of(found) == [[1] * 4] * 4
    assert found["classes"] == [{"label": "road", "index": 1, "pixels": 16, "share": 1.0}]


@pytest.mark.parametrize(
    ("shape", "datatype", "values", "words"),
    [
        ((3, 4, 4), "FP32", np.full((3, 4, 4), np.nan, np.float32), "is not a number"),
        ((-1, 4, 4), "FP32", np.zeros((256, 4, 4), np.float32), "is [256, 4, 4]; allowed: 1 to 255 classes"),
        ((-1, -1), "FP32", np.zeros((0, 4), np.float32), "is [0, 4]; allowed"),
        ((4, 4), "INT64", np.full((4, 4), 256), "is [4, 4], or has another class; allowed: the classes 0 to 255"),
        ((4, 4), "INT64", np.full((4, 4), -1), "has another class"),
    ],
)
def test_an_unusable_output_fails_that_job_alone(
    tmp_path: Path, shape: tuple[int, ...], datatype: str, values: Array, words: str
) -> None:
    task = load(tmp_path, shape, datatype)
    with pytest.raises(Refused) as caught:
        answer(task, y=values)
    assert caught.value.code == "inference_failed"
    assert words in caught.value.message


def test_a_mask_is_a_png_in_base64(tmp_path: Path) -> None:
    found = answer(load(tmp_path, (1, 2, 2)), y=np.ones((1, 2, 2), np.float32))
    assert base64.b64encode(found["mask"].raw()).startswith(b"iVBORw0KGgo")
    assert (found["format"], found["width"], found["height"]) == ("png", 4, 4)
