"""Imports from files and local hubs: the resulting model folder, and nothing left after a failure."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_runtime.repository.repository import ModelFolder, list_models
from tests.support import models
from tests.support.importing import COMMIT, FakeHub, client_env, refused, run
from tests.support.service import DIGITS, ROOT, Service

DIGITS_ONNX = ROOT / "models" / "digits" / "1" / "model.onnx"


def test_an_imported_file_can_be_served_at_once(tmp_path: Path) -> None:
    models.doubling(tmp_path / "elsewhere", "double")
    done = run(tmp_path / "models", str(tmp_path / "elsewhere" / "double" / "1" / "model.onnx"), "--name", "twice")
    assert (done.returncode, done.stderr) == (0, "")
    assert "twice: imported" in done.stdout
    assert "it takes tensors" in done.stdout
    (found,) = list_models(tmp_path / "models")
    assert isinstance(found, ModelFolder)
    assert (found.name, found.version, found.spec.task) == ("twice", "1", "tensor")
    with Service(tmp_path / "models") as service:
        job = {"model": "twice", "input": {"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}}}}
        answer = service.http.post("/v1/jobs", json=job, headers={"prefer": "wait=10"}).json()
        assert answer["output"]["tensors"]["y"]["data"] == [2, 4, 6, 8]


def test_a_fixed_batch_size_is_made_dynamic_during_the_import(tmp_path: Path, shared_data: Path) -> None:
    done = run(tmp_path, str(shared_data / "models" / "squeezenet1.1_fp16.onnx"), "--preset", "torch", "--name", "half")
    assert (done.returncode, done.stderr) == (0, "")
    assert "its fixed batch size was removed" in done.stdout
    assert [path.name for path in (tmp_path / "half" / "1").iterdir()] == ["model.onnx"]


def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    here = tmp_path / "models"
    shutil.copytree(ROOT / "models" / "digits", here / "digits")
    assert "ONNX" in refused(here, str(tmp_path / "text.onnx"))
    assert "already exists; allowed: another --name" in refused(here, str(DIGITS_ONNX), "--name", "digits")
    assert "is not a model name; allowed" in refused(here, str(DIGITS_ONNX), "--name", "../up")
    assert "allowed for images: one input" in refused(here, str(_of_numbers(tmp_path)), "--preset", "torch")
    assert "is neither a path nor a source; allowed: an .onnx file, a folder, keras:ResNet50" in refused(
        here, "caffe:x"
    )
    assert "name a revision of o/r" in refused(here, "hf:o/r")


def _of_numbers(tmp_path: Path) -> Path:
    return models.doubling(tmp_path / "elsewhere", "double") / "1" / "model.onnx"


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_a_missing_library_is_reported_with_its_extra(tmp_path: Path) -> None:
    told = refused(tmp_path / "models", "timm:resnet18")
    assert 'pip install -e ".[timm]" in the checkout' in told


def test_a_library_that_fails_to_import_is_one_line(tmp_path: Path) -> None:
    library = tmp_path / "libraries" / "huggingface_hub.py"
    library.parent.mkdir()
    library.write_text("raise RuntimeError('operator nms does not exist')")
    told = refused(tmp_path / "models", f"hf:o/r@{COMMIT}", env={"PYTHONPATH": str(library.parent)})
    assert "huggingface_hub is installed but cannot be imported: operator nms does not exist" in told


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "no-folder"
    file.write_text("")
    done = run(file, str(DIGITS_ONNX))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot be written" in done.stderr


@pytest.fixture
def hub() -> Iterator[tuple[dict[str, bytes], str]]:
    """A hub on loopback with one repository, `o/digits`: its files, and the hub's address."""
    with FakeHub("o/digits") as fake:
        yield fake.files, fake.address


def test_a_hub_repository_gives_the_preprocessing(hub: tuple[dict[str, bytes], str], tmp_path: Path) -> None:
    files, address = hub
    how = {"size": {"height": 28, "width": 28}, "do_normalize": False, "rescale_factor": 1 / 255, "resample": 2}
    names = {str(number): f"a {number}" for number in range(10)}
    files |= {
        "onnx/model.onnx": DIGITS_ONNX.read_bytes(),
        "onnx/model_quantized.onnx": b"another",
        "preprocessor_config.json": json.dumps(how).encode(),
        "config.json": json.dumps({"id2label": names}).encode(),
    }
    done = run(tmp_path / "models", f"hf:o/digits@{COMMIT}", env=client_env(address, tmp_path))
    # The digits take one channel, and a preprocessor_config.json does not tell of such: found before it is served.
    assert done.returncode == 1
    assert "produces [3, 28, 28] (channels, height, width)" in done.stderr
    assert list((tmp_path / "models").iterdir()) == []
    files["onnx/model.onnx"] = (models.mean_colour(tmp_path / "elsewhere") / "1" / "model.onnx").read_bytes()
    how["size"] = {"height": 8, "width": 8}
    files["preprocessor_config.json"] = json.dumps(how | {"do_rescale": False}).encode()
    files["config.json"] = json.dumps({"id2label": {"0": "red", "1": "green", "2": "blue"}}).encode()
    shutil.rmtree(tmp_path / "hf")
    done = run(tmp_path / "models", f"hf:o/digits@{COMMIT}", "--name", "colours", env=client_env(address, tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = list_models(tmp_path / "models")
    assert isinstance(found, ModelFolder)
    assert (found.spec.image.resize, found.spec.image.filter, found.spec.image.scale) == ((8, 8), "bilinear", 1.0)
    assert (found.path / "labels.txt").read_text() == "red\ngreen\nblue\n"
    with Service(tmp_path / "models") as service:
        files_ = {"image": (DIGITS[0].name, DIGITS[0].read_bytes())}
        answer = service.http.post("/predict", files=files_).json()
        assert {one["label"] for one in answer["predictions"]} == {"red", "green", "blue"}


def test_one_of_several_files_must_be_named(hub: tuple[dict[str, bytes], str], tmp_path: Path) -> None:
    files, address = hub
    env = client_env(address, tmp_path)
    assert "has no .onnx file" in refused(tmp_path / "models", f"hf:o/digits@{COMMIT}", env=env)
    files |= {"a.onnx": b"", "b.onnx": (models.doubling(tmp_path / "elsewhere", "d") / "1" / "model.onnx").read_bytes()}
    assert "has a.onnx, b.onnx; allowed: --file" in refused(tmp_path / "models", f"hf:o/digits@{COMMIT}", env=env)
    done = run(tmp_path / "models", f"hf:o/digits@{COMMIT}", "--file", "b.onnx", env=env)
    assert (done.returncode, "it has no preprocessor_config.json and takes tensors" in done.stdout) == (0, True)


def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    told = refused(tmp_path / "models", f"hf:o/digits@{COMMIT}", env=client_env("http://127.0.0.1:9", tmp_path))
    assert f"cannot download o/digits@{COMMIT}" in told
