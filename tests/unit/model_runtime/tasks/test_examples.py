"""Examples in a model's folder: what the check, the profile and the worker take from them, and bad files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli import main
from model_runtime.model import load_model
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks import load_task
from model_runtime.tasks.examples import read_own_examples
from model_runtime.tensor_spec import TensorSpec
from tests.support import models
from tests.support.model_files.graphs import node, write
from tests.support.service import ROOT

INPUTS, OUTPUTS = [TensorSpec("x", "FP32", (4,))], [TensorSpec("y", "FP32", (4,))]
ROW = [1.0, 2.0, 3.0, 4.0]
TENSORS = {"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": ROW}}}


def doubling_with(tmp_path: Path, name: str, content: bytes) -> Path:
    folder = models.doubling(tmp_path)
    (folder / "examples" / "more").mkdir(parents=True)
    (folder / "examples" / "more" / name).write_bytes(content)
    (folder / "examples" / ".hidden").write_bytes(b"no example")
    return folder


def saved(tmp_path: Path, array: Any) -> bytes:
    np.save(tmp_path / "saved.npy", array)
    return (tmp_path / "saved.npy").read_bytes()


def rows_of(folder: Path) -> list[list[float]]:
    [listed] = [each for each in list_models(folder.parent) if isinstance(each, ModelFolder)]
    task = load_task(listed.spec, folder, INPUTS, OUTPUTS)
    return [row["x"].tolist() for row in read_own_examples(folder, task, INPUTS)]


@pytest.mark.parametrize("document", [TENSORS, {"model": "double", "input": TENSORS}])
def test_json_is_an_input_or_a_whole_request(tmp_path: Path, document: Any) -> None:
    assert rows_of(doubling_with(tmp_path, "one.json", json.dumps(document).encode())) == [ROW]


def test_json_may_list_several(tmp_path: Path) -> None:
    assert rows_of(doubling_with(tmp_path, "all.json", json.dumps([TENSORS, {"input": TENSORS}]).encode())) == [ROW] * 2


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_npy_is_a_row_or_a_batch(tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder = doubling_with(tmp_path, "rows.npy", saved(tmp_path, np.full(shape, 2, np.float32)))
    assert rows_of(folder) == [[2.0] * 4] * (1 if len(shape) == 1 else shape[0])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", b"{", "the file"),
        ("a.json", b'{"image": "AAAA"}', "the model takes raw or tensors, not image"),
        ("a.json", json.dumps({"tensors": {"z": TENSORS["tensors"]["x"]}}).encode(), "expected the tensors"),
        ("a.txt", b"1 2 3", "not an example; allowed: a .json file"),
        ("a.npy", b"\x93NUMPY", "is not an example of the model's input"),
    ],
)
def test_a_bad_example_is_one_error_that_names_the_file(
    tmp_path: Path, name: str, content: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = doubling_with(tmp_path, name, content)
    [listed] = list_models(tmp_path)
    assert isinstance(listed, ModelFolder)
    with pytest.raises(ModelError) as caught:
        load_model(listed)
    text = str(caught.value)
    assert text.startswith(f"{folder / 'examples' / 'more' / name}: is not an example of the model's input: ")
    assert reason in text
    assert "\n" not in text
    for verb in (["check"], ["profile", "--seconds", "0.01"]):
        assert main.main(["models", *verb, str(folder), "--provider", "cpu"]) == 1
        assert text in capsys.readouterr().err


def test_an_example_must_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = doubling_with(tmp_path / "models", "one.json", json.dumps(TENSORS).encode())
    (tmp_path / "secret.json").write_text(json.dumps(TENSORS))
    (folder / "examples" / "link.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ModelError, match="leads outside of the folder"):
        rows_of(folder)


def test_the_check_takes_examples_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only above 1e7 do answers differ, which no made-up row reaches."""
    nodes = [
        node("Clip", ["x", "low"], ["c"]),
        node("Sub", ["c", "low"], ["y"]),
    ]
    low = {"low": np.array(1e7, np.float32)}
    write(tmp_path / "m" / "1" / "model.onnx", nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, low)
    (tmp_path / "m" / "model.toml").write_text('task = "tensor"\nprovider = "cpu"')
    [listed] = list_models(tmp_path)
    assert isinstance(listed, ModelFolder)
    assert load_model(listed).card()["checked"] is None
    assert main.main(["models", "check", str(tmp_path / "m")]) == 1
    assert "cannot be checked: every row that was tried has the same result" in capsys.readouterr().out
    (tmp_path / "m" / "examples").mkdir()
    (tmp_path / "m" / "examples" / "a.npy").write_bytes(saved(tmp_path, np.array([[2e7] * 4, [3e7] * 4], np.float32)))
    card = load_model(listed).card()
    assert (card["checked"], card["batchable"], card["drift"]) == (True, True, 0.0)
    assert main.main(["models", "check", str(tmp_path / "m")]) == 0
    assert "2 examples were used" in capsys.readouterr().out


def test_open_dimensions_are_profiled_with_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "m" / "1" / "model.onnx", [node("Relu", ["x"], ["y"])], {"x": ["N", "S"]}, {"y": ["N", "S"]})
    (tmp_path / "m" / "model.toml").write_text('task = "tensor"\nprovider = "cpu"')
    argv = ["models", "profile", str(tmp_path / "m"), "--seconds", "0.01", "--largest", "2"]
    assert main.main(argv) == 1
    assert "allowed: examples/ in the model's folder" in capsys.readouterr().err
    (tmp_path / "m" / "examples").mkdir()
    (tmp_path / "m" / "examples" / "a.npy").write_bytes(saved(tmp_path, np.ones(7, np.float32)))
    assert main.main(argv) == 0


def test_pictures_are_examples_of_image_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil  # noqa: PLC0415

    shutil.copytree(ROOT / "models" / "digits", tmp_path / "digits")
    shutil.copytree(ROOT / "samples" / "digits", tmp_path / "digits" / "examples")
    assert main.main(["models", "check", str(tmp_path / "digits"), "--sizes", "2,4", "--provider", "cpu"]) == 0
    assert "4 examples were used" in capsys.readouterr().out
