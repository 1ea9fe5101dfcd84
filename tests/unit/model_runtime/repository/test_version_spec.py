"""A version's own `model.toml` overrides the model's, for that version alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from model_runtime.model import load_model
from model_runtime.repository.path_checks import check_folder
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.spec.model_toml import ModelError, read_spec

Relu = Callable[..., Path]
MODEL = 'task = "tensor"\nmax_batch = 4\n[image]\npreset = "torch"\n'


@pytest.fixture
def folder(relu: Relu) -> Path:
    relu(MODEL, ["N", 4], version="1")
    return relu(MODEL, ["N", 4], version="2")


def test_keys_and_tables_of_a_version_replace_those_of_the_model(folder: Path) -> None:
    (folder / "2" / "model.toml").write_text('max_batch = 7\n[image]\nresize = [28, 28]\nlayout = "NHWC"')
    own, models = read_spec(folder, "2"), read_spec(folder)
    assert (own.task, own.max_batch, own.image.layout, own.image.size) == ("tensor", 7, "NHWC", (28, 28))
    assert not own.image.is_normalising  # the whole table is replaced: nothing of the preset is left
    assert models == read_spec(folder, "1")
    assert models.image.is_normalising


def test_only_its_own_version_is_loaded_by_a_version_spec(folder: Path) -> None:
    (folder / "2" / "model.toml").write_text("max_batch = 7")
    [found] = list_models(folder.parent)
    assert isinstance(found, ModelFolder)
    assert (found.version, load_model(found).max_batch) == ("2", 7)
    assert load_model(found._replace(version="1", onnx=folder / "1" / "model.onnx")).max_batch == 4


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("max_batch = 0", r"/2/model\.toml: max_batch: 0 is not allowed"),
        ("[image]\nsize = 3", r"/2/model\.toml: image\.size: unknown key"),
        (
            'version = "1"',
            r"/2/model\.toml: version: is not allowed here; allowed: the key version in .*relu/model\.toml",
        ),
        ("=", r"/2/model\.toml: is not TOML"),
    ],
)
def test_an_error_in_a_version_spec_is_reported_for_that_version_alone(folder: Path, own: str, said: str) -> None:
    (folder / "2" / "model.toml").write_text(own)
    with pytest.raises(ModelError, match=said):
        read_spec(folder, "2")
    [found] = list_models(folder.parent)  # what stands in the version's file is met when the version is loaded
    assert isinstance(found, ModelFolder)
    with pytest.raises(ModelError, match=said):
        load_model(found)
    assert load_model(found._replace(version="1", onnx=folder / "1" / "model.onnx")).version == "1"


def test_a_version_spec_may_not_point_outside_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("max_batch = 7")
    (folder / "2" / "model.toml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="leads outside of the folder"):
        check_folder(folder, folder / "2" / "model.onnx")
