"""Which folders are models, which version is served; a broken model never hides the others."""

from collections.abc import Callable
from pathlib import Path

import pytest

from model_runtime.repository.repository import BrokenModel, ModelFolder, list_models
from model_runtime.spec.model_toml import ModelError

Relu = Callable[..., Path]
TENSOR = 'task = "tensor"'


def test_the_highest_version_is_served_by_number(relu: Relu, tmp_path: Path) -> None:
    for version in ("1", "9", "10"):
        relu(TENSOR, ["N", 4], version=version)
    (tmp_path / "relu" / "11").mkdir()  # without a model in it: still being copied
    [found] = list_models(tmp_path)
    assert isinstance(found, ModelFolder)
    assert (found.name, found.version) == ("relu", "10")
    assert found.onnx == tmp_path / "relu" / "10" / "model.onnx"


def test_a_pinned_version_is_served(relu: Relu, tmp_path: Path) -> None:
    relu(TENSOR, ["N", 4], version="2")
    relu(f'{TENSOR}\nversion = "1"', ["N", 4], version="1")
    [found] = list_models(tmp_path)
    assert isinstance(found, ModelFolder)
    assert found.version == "1"


def test_broken_folders_are_returned_beside_good_ones(relu: Relu, tmp_path: Path) -> None:
    relu(TENSOR, ["N", 4], name="good")
    relu(TENSOR, ["N", 4], name="bad name")
    relu("task = 1", ["N", 4], name="bad-toml")
    relu(f'{TENSOR}\nversion = "7"', ["N", 4], name="no-such-version")
    relu(TENSOR, ["N", 4], name="no-toml")
    (tmp_path / "no-toml" / "model.toml").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model.toml").write_text(TENSOR)
    (tmp_path / "photos").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README.md").touch()
    found = {model.name: model for model in list_models(tmp_path)}
    assert list(found) == ["bad name", "bad-toml", "empty", "good", "no-such-version", "no-toml"]
    assert isinstance(found["good"], ModelFolder)
    reasons = {model.name: model.reason for model in found.values() if isinstance(model, BrokenModel)}
    assert "allowed: 1 to 64 letters" in reasons["bad name"]
    assert "model.toml: task: 1 is not allowed" in reasons["bad-toml"]
    assert "1/model.onnx" in reasons["empty"]
    assert "there is no 7/model.onnx; allowed: 1" in reasons["no-such-version"]
    assert "model.toml: is missing" in reasons["no-toml"]


def test_only_the_named_models_are_read(relu: Relu, tmp_path: Path) -> None:
    relu(TENSOR, ["N", 4], name="a")
    relu("broken", ["N", 4], name="b")
    found = list_models(tmp_path, only=["a", "c"])
    assert [model.name for model in found] == ["a", "c"]
    assert isinstance(found[1], BrokenModel)
    assert "no such model" in found[1].reason
    assert "allowed: a, b" in found[1].reason


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the models directory cannot be read: No such file"):
        list_models(tmp_path / "nowhere")
