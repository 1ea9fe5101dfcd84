"""Models with a free height and width are measured, warmed up, profiled and optimized with the size of the task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.models.model_paths import ModelPath
from cli.models.optimizing.evaluation.loaded_version import open_version
from cli.models.profile import profile
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.model import load_model
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.tensor_spec import Array
from tests.support.model_files import graphs
from tests.support.model_files.graphs import node

TOML = 'task = "image-embedding"\n[image]\nresize = [24, 40]'


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    """A convolution that needs 16 pixels, with a mean over all places."""
    nodes = [node("Conv", ["image", "w"], ["c"]), node("GlobalAveragePool", ["c"], ["y"])]
    inputs: dict[str, Any] = {"image": ["N", 3, "height", "width"]}
    path = tmp_path / "free" / "1" / "model.onnx"
    graphs.write(path, nodes, inputs, {"y": ["N", 4, 1, 1]}, {"w": graphs.numbers(4, 3, 16, 16)})
    (tmp_path / "free" / "model.toml").write_text(TOML)
    (found,) = list_models(tmp_path)
    assert isinstance(found, ModelFolder)
    return found


def test_a_worker_measures_the_size_that_jobs_have(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = set()
    run = OnnxEngine.run

    def noted(self: OnnxEngine, arrays: dict[str, Array], stop: Any = None) -> dict[str, Array]:
        shapes.add(arrays["image"].shape[1:])
        return run(self, arrays, stop)

    monkeypatch.setattr(OnnxEngine, "run", noted)
    model = load_model(folder)
    assert shapes == {(3, 24, 40)}
    card = model.card()
    assert card["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [3, 24, 40]}]
    assert set(card["run_ms"]) >= {"1", "2"}
    assert model.run({"image": np.zeros((2, 3, 24, 40), np.float32)})["y"].shape == (2, 4, 1, 1)


def test_the_profile_and_the_optimizer_do_too(folder: ModelFolder) -> None:
    result = profile(ModelPath(folder.onnx, folder), "cpu", 0.01, 2, store_profile=False)
    assert sorted(result.profile.sizes) == [1, 2]
    assert open_version(folder, "cpu", 1).engine.inputs[0].shape == (3, 24, 40)
