"""The bundled digits model: small, batchable, and as accurate as accuracy.json says."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "models" / "digits"
FILE = MODEL / "1" / "model.onnx"
SAMPLES = sorted((ROOT / "samples" / "digits").glob("*.png"))
SPEC = tomllib.loads((MODEL / "model.toml").read_text())

Array = NDArray[Any]


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = SPEC["threads"]
    return onnxruntime.InferenceSession(FILE, options, providers=["CPUExecutionProvider"])


def prepare(file: Path, mode: str = "L") -> Array:
    height, width = SPEC["image"]["resize"]
    with Image.open(file) as image:
        small = image.convert(mode).convert("L").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32)[None] * np.float32(SPEC["image"]["scale"])


def read(session: onnxruntime.InferenceSession, images: list[Array]) -> Array:
    return np.asarray(session.run(["logits"], {"image": np.stack(images)})[0])


def test_file_is_small() -> None:
    assert FILE.stat().st_size <= 1_000_000


def test_tensor_specs_match_model_toml(session: onnxruntime.InferenceSession) -> None:
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    labels = (MODEL / SPEC["classification"]["labels"]).read_text().split()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["N", 1, *SPEC["image"]["resize"]])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["N", len(labels)])
    assert labels == [str(digit) for digit in range(10)]


@pytest.mark.parametrize("size", [1, 7, SPEC["max_batch"]])
def test_a_batch_gives_the_same_answers_as_single_runs(session: onnxruntime.InferenceSession, size: int) -> None:
    images = [prepare(file) for file in SAMPLES[:size]]
    singles = np.concatenate([read(session, [image]) for image in images])
    np.testing.assert_allclose(read(session, images), singles, rtol=1e-4, atol=1e-4)


def test_accuracy_on_held_out_images_is_recorded() -> None:
    recorded = json.loads((MODEL / "accuracy.json").read_text())
    assert recorded["held_out_accuracy"] >= 0.98
    assert (recorded["train_size"], recorded["held_out_size"]) == (1437, 360)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_samples_are_recognised_correctly(session: onnxruntime.InferenceSession, mode: str) -> None:
    truth = [int(file.name[0]) for file in SAMPLES]
    assert np.bincount(truth).tolist() == [5] * 10
    answers = read(session, [prepare(file, mode) for file in SAMPLES]).argmax(1)
    assert (answers == truth).mean() >= 0.98


def test_samples_are_bright_ink_on_black_and_small() -> None:
    for file in SAMPLES:
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (128, 128))
            pixels = np.asarray(image)
        assert np.median(pixels) < 128 < pixels.max()
    assert sum(file.stat().st_size for file in SAMPLES) < 300_000
