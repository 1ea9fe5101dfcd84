"""What the two built-in tasks accept, refuse and return, without a runtime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.contract import tensors
from jobs.contract.errors import Refused
from model_runtime.output_encoding import encode_output
from model_runtime.spec.model_toml import ModelError, ModelSpec
from model_runtime.tasks import Task, load_task
from model_runtime.tensor_spec import TensorSpec

PIXELS = TensorSpec("pixels", "FP32", (3, 8, 8))
CLASSES = TensorSpec("scores", "FP32", (4,))
LABELS = "cat\ndog\r\nfish, goldfish\nbird\n\n"


def image_task(folder: Path, port: TensorSpec = PIXELS, output: TensorSpec = CLASSES, **toml: Any) -> Task:
    spec = ModelSpec.model_validate({"task": "image-classification", **toml})
    return load_task(spec, folder, [port], [output])


def tensor_task(*inputs: TensorSpec) -> Task:
    return load_task(ModelSpec(task="tensor"), Path(), inputs, [CLASSES])


def png(tmp_path: Path, colour: tuple[int, int, int] = (10, 20, 30), size: tuple[int, int] = (16, 10)) -> bytes:
    Image.new("RGB", size, colour).save(tmp_path / "x.png")
    return (tmp_path / "x.png").read_bytes()


def refusal(task: Task, kind: str, data: bytes, parameters: dict[str, Any] | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        task.preprocess(kind, data, parameters or {})
    return caught.value


@pytest.mark.parametrize(
    ("port", "output", "toml", "reason"),
    [
        (PIXELS._replace(shape=(784,)), CLASSES, {}, "one input of 3 dimensions"),
        (
            PIXELS._replace(datatype="INT64"),
            CLASSES,
            {},
            "image input is INT64; allowed: UINT8, FP16, BF16, FP32, FP64",
        ),
        (PIXELS._replace(datatype="UINT8"), CLASSES, {"image": {"preset": "torch"}}, "takes unscaled UINT8 pixels"),
        (PIXELS._replace(shape=(3, -1, -1)), CLASSES, {}, "image.resize: missing"),
        (PIXELS, CLASSES, {"image": {"resize": 8}}, "the shorter side alone does not determine the size"),
        (PIXELS, CLASSES, {"image": {"resize": 9, "crop": 9}}, "produces [3, 9, 9] (channels, height, width)"),
        (PIXELS, CLASSES, {"image": {"color": "gray"}}, "produces [1, 8, 8]"),
        (
            PIXELS,
            CLASSES,
            {"image": {"layout": "NHWC", "resize": [8, 8]}},
            "produces [8, 8, 3] (height, width, channels)",
        ),
        (PIXELS, CLASSES._replace(shape=(2, 4)), {}, "output 'scores' is FP32 [2, 4]; allowed: one number per class"),
        (PIXELS, CLASSES._replace(shape=(5,)), {"classification": {"labels": "labels.txt"}}, "4 labels, but the model"),
        (PIXELS, CLASSES, {"classification": {"labels": "names.txt"}}, "names.txt cannot be read: No such file"),
        (PIXELS, CLASSES, {"classification": {"labels": "latin.txt"}}, "latin.txt: is not UTF-8 text"),
        (PIXELS, CLASSES, {"classification": {"labels": "link.txt"}}, "link.txt leads outside of the folder"),
    ],
)
def test_an_unsuitable_model_is_found_at_load(
    tmp_path: Path, port: TensorSpec, output: TensorSpec, toml: dict[str, Any], reason: str
) -> None:
    (tmp_path / "labels.txt").write_text(LABELS, encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "link.txt").symlink_to("/etc/hostname")
    with pytest.raises(ModelError) as caught:
        image_task(tmp_path, port, output, **toml)
    assert reason in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_becomes_the_models_own_type_and_size(tmp_path: Path) -> None:
    data = png(tmp_path)
    for datatype, dtype in (("FP32", np.float32), ("FP16", np.float16), ("FP64", np.float64), ("UINT8", np.uint8)):
        array = image_task(tmp_path, PIXELS._replace(datatype=datatype)).preprocess("image", data, {})["pixels"]
        assert array.dtype == np.dtype(dtype)
        assert array.shape == (3, 8, 8)
        assert array.flags["C_CONTIGUOUS"]
        assert array[:, 4, 4].tolist() == [10, 20, 30]
    open_sized = PIXELS._replace(shape=(3, -1, -1))
    assert image_task(tmp_path, open_sized, image={"resize": [6, 7]}).preprocess("image", data, {})["pixels"].shape[
        1:
    ] == (6, 7)


def test_predictions_are_named_sorted_and_plain_values(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(LABELS, encoding="utf-8-sig")
    task = image_task(tmp_path, output=CLASSES._replace(shape=(4, 1, 1)), classification={"labels": "labels.txt"})
    assert task.label_count == 4
    scores = {"scores": np.array([1, 1000, 1000, 0], np.float16).reshape(4, 1, 1)}
    assert task.postprocess(scores, {"top_k": 3}) == {
        "predictions": [
            {"label": "dog", "index": 1, "probability": 0.5},
            {"label": "fish, goldfish", "index": 2, "probability": 0.5},
            {"label": "cat", "index": 0, "probability": 0.0},
        ]
    }


def test_without_labels_the_index_is_the_name(tmp_path: Path) -> None:
    task = image_task(tmp_path, output=CLASSES._replace(shape=(-1,)), classification={"softmax": False, "top_k": 2})
    assert task.label_count is None
    [first, second] = task.postprocess({"scores": np.array([0.1, 0.2, 0.7], np.float32)}, {})["predictions"]
    assert first == {"label": "2", "index": 2, "probability": 0.7}
    assert second["label"] == "1"


@pytest.mark.parametrize("scores", [[np.nan, 1, 2, 3], [np.inf, 1, 2, 3], [np.inf, np.inf, 0, 0], [-np.inf] * 4])
def test_an_answer_that_is_no_number_fails_that_item(tmp_path: Path, scores: list[float]) -> None:
    with pytest.raises(Refused) as caught:
        image_task(tmp_path).postprocess({"scores": np.array(scores, np.float32)}, {})
    assert caught.value.code == "inference_failed"


@pytest.mark.parametrize("top_k", [0, -1, 5, 2.0, True, "3", None, [1]])
def test_top_k_is_a_number_of_classes(tmp_path: Path, top_k: object) -> None:
    refused = refusal(image_task(tmp_path), "image", png(tmp_path), {"top_k": top_k})
    assert refused.code == "invalid_request"
    assert "a whole number from 1 to 4" in refused.message


def test_unknown_parameters_are_refused_with_the_known(tmp_path: Path) -> None:
    refused = refusal(image_task(tmp_path), "image", png(tmp_path), {"topk": 1})
    assert (refused.code, refused.details["allowed"]) == ("invalid_request", ["top_k"])
    assert "'topk'; allowed: top_k" in refused.message
    assert "allowed: encoding" in refusal(tensor_task(CLASSES), "raw", bytes(16), {"x": 1}).message


def test_tensors_are_mapped_not_copied() -> None:
    task = tensor_task(TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", ()))
    assert task.kinds == {"tensors"}
    assert not task.offload
    frame = tensors.pack_tensors(
        {
            "b": tensors.from_numbers("b", "INT64", (), [7]),
            "a": tensors.from_numbers("a", "FP32", (3, 2), [0, 1, 2, 3, 4, 5]),
        }
    )
    arrays = task.preprocess("tensors", frame, {})
    assert arrays["a"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert (arrays["b"].shape, arrays["b"].item()) == ((), 7)
    assert np.shares_memory(arrays["a"], np.frombuffer(frame, np.uint8))


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"y": ("FP32", (2,), bytes(8))}, "expected the tensors ['x'], got ['y']"),
        ({}, "expected the tensors ['x'], got []"),
        ({"x": ("INT32", (2,), bytes(8))}, "expected FP32 of shape [-1], got INT32 of shape [2]"),
        ({"x": ("FP32", (2, 1), bytes(8))}, "got FP32 of shape [2, 1]"),
        ({"x": ("FP32", (-1,), b"")}, "a tensor frame has 23 bytes"),
    ],
)
def test_tensors_that_do_not_fit_are_named(sent: dict[str, Any], reason: str) -> None:
    frame = tensors.pack_tensors({name: tensors.Tensor(*parts) for name, parts in sent.items()})
    refused = refusal(tensor_task(TensorSpec("x", "FP32", (-1,))), "tensors", frame)
    assert refused.code == "invalid_input"
    assert reason in refused.message


def test_a_frame_with_false_shapes_is_refused() -> None:
    task = tensor_task(TensorSpec("a", "UINT8", (-1,)), TensorSpec("b", "UINT8", (-1,)))
    frame = tensors.pack_tensors(
        {"a": tensors.Tensor("UINT8", (9,), bytes(4)), "b": tensors.Tensor("UINT8", (-5,), b"")}
    )
    assert refusal(task, "tensors", frame).code == "invalid_input"
    for junk in (b"", b"\xff\xff\xff\xff", b"\2\0\0\0[]"):
        assert refusal(task, "tensors", junk).code == "invalid_input"


def test_raw_bytes_are_the_one_fixed_tensor() -> None:
    task = tensor_task(TensorSpec("x", "INT16", (2, 2)))
    assert task.kinds == {"tensors", "raw"}
    assert task.preprocess("raw", b"\1\0\2\0\3\0\xff\xff", {})["x"].tolist() == [[1, 2], [3, -1]]
    assert "INT16 of shape [2, 2], 8 bytes; got 7 bytes" in refusal(task, "raw", bytes(7)).message


def test_values_json_cannot_carry_are_null() -> None:
    task = load_task(ModelSpec(task="tensor"), Path(), [CLASSES], [CLASSES, TensorSpec("flags", "BOOL", (2,))])
    outputs = {"scores": np.array([[1.5, np.nan], [np.inf, -2]], "f4"), "flags": np.array([True, False])}
    shown = json.loads(b"".join(encode_output(task.postprocess(outputs, {}), 1 << 20, 1 << 20)))
    assert shown == {
        "tensors": {
            "scores": {"datatype": "FP32", "shape": [2, 2], "data": [1.5, None, None, -2.0]},
            "flags": {"datatype": "BOOL", "shape": [2], "data": [True, False]},
        }
    }
