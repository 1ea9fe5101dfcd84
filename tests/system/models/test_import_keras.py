"""Keras' ResNet-50 with the tutorial's request, compared with Keras itself, where Keras is installed."""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batching.collation import stack_items
from model_runtime.model import load_model
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.tensor_spec import Array
from tests.support.service import ROOT, Service

pytestmark = [
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("keras", "torch", "onnxscript")),
        reason="needs Keras, as the extra `keras` brings it",
    ),
    pytest.mark.timeout(300),
]
PICTURES = 50

# The tutorial's own way from a file to predictions; Keras in a process of its own, for it leaves threads and warnings.
TUTORIAL = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
from keras.applications.resnet50 import ResNet50, preprocess_input
from PIL import Image
keras.utils.set_random_seed(7)
model = ResNet50(weights=None)
batch = []
for path in sys.argv[2:]:
    image = Image.open(path)
    if image.mode != "RGB":
        image = image.convert("RGB")
    image = image.resize((224, 224))
    batch.append(preprocess_input(keras.utils.img_to_array(image)))
np.save(sys.argv[1], model.predict(np.stack(batch), verbose=0))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of models with resnet50 in it."""
    folder = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-m", "cli.main", "models", "import", "keras:ResNet50", "--weights", "random"]
    done = subprocess.run([*command, "--models-dir", folder], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{folder}/resnet50: imported" in done.stdout
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Fifty pictures of all proportions and modes, with shades and blocks that networks react to."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    paths = []
    for number in range(PICTURES):
        width, height = (int(side) for side in random.integers(100, 440, 2))
        few = random.integers(0, 256, (5, 7, 3), np.uint8)
        image = Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)
        paths.append(folder / f"{number}.png")
        (image.convert("L") if number % 10 == 0 else image).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def expected(pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Array:
    out = tmp_path_factory.mktemp("keras") / "expected.npy"
    subprocess.run([sys.executable, "-c", TUTORIAL, out, *pictures], check=True, capture_output=True)
    told: Array = np.load(out)
    return told


def test_the_imported_model_agrees_with_keras_on_fifty_pictures(
    imported: Path, pictures: list[Path], expected: Array
) -> None:
    (folder,) = list_models(imported)
    assert isinstance(folder, ModelFolder)
    model = load_model(folder)
    items = [model.preprocess("image", path.read_bytes(), {}) for path in pictures]
    rows = [model.run(stack_items(items[at : at + 5])) for at in range(0, PICTURES, 5)]
    found = np.concatenate([next(iter(row.values())) for row in rows])
    assert found.shape == expected.shape == (PICTURES, 1000)
    # Random weights make long NAME=flat answers: what counts is the difference beside the answer itself.
    assert float(np.abs(found - expected).max() / expected.max()) < 1e-3
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert len(set(expected.argmax(1).tolist())) > 1 or float(np.ptp(expected, axis=0).max()) > 1e-5


def test_the_tutorials_request_works_unchanged(imported: Path, pictures: list[Path], expected: Array) -> None:
    with Service(imported) as service:
        for path, row in list(zip(pictures, expected, strict=True))[:5]:
            files = {"image": (path.name, io.BytesIO(path.read_bytes()))}
            answer = service.http.post("/predict", files=files).json()
            assert answer["success"] is True
            best = answer["predictions"][0]
            assert (best["label"], best["probability"]) == (str(row.argmax()), pytest.approx(row.max(), abs=1e-5))
