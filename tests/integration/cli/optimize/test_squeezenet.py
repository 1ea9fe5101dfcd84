"""A real ImageNet network in int8, calibrated on crops and judged on photographs: it agrees and is smaller.

How much faster it is: docs/explanation/performance.md, by `jitney models optimize` on an idle machine.
"""

import json
import shutil
from pathlib import Path

import pytest

from model_runtime.model import load_model
from model_runtime.repository.repository import ModelFolder, list_models
from tests.support import models
from tests.support.model_files import photographs
from tests.support.model_files.optimize import Optimize

FILE = "squeezenet1.1_fp32_dynbatch.derived.onnx"


@pytest.fixture
def cuts(shared_data: Path, models_dir: Path, tmp_path: Path) -> Path:
    shutil.rmtree(models_dir / "digits")
    models.squeezenet(models_dir, shared_data, FILE)
    return photographs.cuts(shared_data / "photos", tmp_path / "cuts", each=4, seed=1)


def test_int8_agrees_on_the_photographs_and_is_smaller(
    shared_data: Path, models_dir: Path, optimize: Optimize, cuts: Path
) -> None:
    argv = ("--int8", "--fold", "--calibrate", cuts, "--validate", shared_data / "photos", "--threads", "1")
    code, said = optimize(*argv, "--seconds", "0.5", "--min-gain", "0", name="squeezenet")
    assert (code, said["reason"]) == (0, "")
    assert said["agreement"]["share"] >= 0.95
    assert said["agreement"]["rows"] == 12
    assert said["bytes_new"] < 0.3 * said["bytes_old"]
    [found] = list_models(models_dir)
    assert isinstance(found, ModelFolder)
    model = load_model(found)
    reference = json.loads((shared_data / "reference_top5.json").read_text())["images"]
    for name, entry in reference.items():
        row = model.preprocess("image", (shared_data / "photos" / name).read_bytes(), {})
        [answer] = model.run({key: array[None] for key, array in row.items()}).values()
        top = model.postprocess(dict.fromkeys(("softmaxout_1",), answer[0]), {"top_k": 2})
        assert entry["top5"][0]["label"] in {one["label"] for one in top["predictions"]}, name
