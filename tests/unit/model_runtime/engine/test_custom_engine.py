"""Custom engines: a class in the model's folder or an installed one replaces ONNX Runtime."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cli.models import main as models_command
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.model import Model, load_model
from model_runtime.repository.repository import BrokenModel, list_models
from model_runtime.spec.model_toml import ModelError
from tests.support.model_files.engines import NUMPY_ENGINE, numpy_model


def opened(models_dir: Path) -> Model:
    (found,) = list_models(models_dir)
    assert not isinstance(found, BrokenModel), found.reason
    return load_model(found)


def refusal(models_dir: Path) -> str:
    """Return the one-line reason why a model cannot be loaded."""
    (found,) = list_models(models_dir)
    if isinstance(found, BrokenModel):
        return found.reason
    with pytest.raises(ModelError) as caught:
        load_model(found)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(old: str, new: str) -> str:
    assert old in NUMPY_ENGINE
    return NUMPY_ENGINE.replace(old, new)


def test_a_custom_engine_runs_batches_and_is_shown(tmp_path: Path) -> None:
    numpy_model(tmp_path)
    model = opened(tmp_path)
    card = model.card()
    assert (card["provider"], card["device"], card["batchable"], card["checked"]) == ("cpu", "numpy", True, True)
    assert card["provider_note"] == "custom engine own.py:Numpy"
    assert card["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [2]}]
    assert model.max_batch > 1
    rows = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    assert model.run({"x": rows})["y"].tolist() == [[0, 1, 2], [3, 4, 5], [3, 5, 7]]


@pytest.mark.parametrize(
    ("settings", "sizes"), [("max_batch = 5", [1, 2, 4, 5]), ("buckets = [2]\nmax_batch = 6", [2, 6])]
)
def test_a_load_runs_each_batch_size_once(tmp_path: Path, settings: str, sizes: list[int]) -> None:
    body = "        return {"
    counting = changed(body, f"        self.seen.append(len(arrays['x']))\n{body}")
    toml = f'task = "tensor"\nengine = "own.py:Numpy"\nbatching = "trust"\n{settings}'
    numpy_model(tmp_path, toml=toml, source=counting.replace("    def run(", "    seen = []\n\n    def run("))
    model = opened(tmp_path)
    assert model._engine._engine.seen == sizes  # type: ignore[union-attr]
    assert model.largest_warm_batch == sizes[-1]


def test_sizes_that_a_load_has_measured_are_warm(tmp_path: Path) -> None:
    numpy_model(tmp_path)
    assert opened(tmp_path).largest_warm_batch == opened(tmp_path).max_batch


def test_an_installed_class_is_taken_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "my_engines.py").write_text(NUMPY_ENGINE)
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    monkeypatch.delitem(sys.modules, "my_engines", raising=False)
    numpy_model(tmp_path / "models", toml='task = "tensor"\nengine = "my_engines:Numpy"')
    assert opened(tmp_path / "models").card()["provider_note"] == "custom engine my_engines:Numpy"


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = numpy_model(tmp_path / "models")
    (tmp_path / "elsewhere.py").write_text(NUMPY_ENGINE)
    (folder / "own.py").unlink()
    (folder / "own.py").symlink_to(tmp_path / "elsewhere.py")
    assert "engine: own.py leads outside of the folder" in refusal(tmp_path / "models")


@pytest.mark.parametrize("engine", ["../own.py:Numpy", "/own.py:Numpy", "own.py", "a/b.py:Numpy", "os.path", ""])
def test_only_files_of_the_folder_and_modules_can_be_named(tmp_path: Path, engine: str) -> None:
    numpy_model(tmp_path, toml=f'task = "tensor"\nengine = "{engine}"')
    assert "engine: " in refusal(tmp_path)
    assert "allowed: file.py:ClassName of a file in the model's folder, or module:ClassName" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1/0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class Other: pass", "there is no class Numpy in own.py"),
        (changed("weights.npy", "gone.npy"), "FileNotFoundError: "),
        (
            changed("self.batchable = True", "pass"),
            "it has no batchable; allowed: all members of jitney.CustomEngine",
        ),
        (changed('"FP32", (len', '"float32", (len'), "inputs = [TensorSpec(name='x', datatype='float32'"),
        (changed('"numpy", np', "None, np"), "device = None; allowed: a string"),
    ],
)
def test_an_engine_that_cannot_be_created_says_why_in_one_line(tmp_path: Path, source: str, reason: str) -> None:
    numpy_model(tmp_path, source=source)
    assert f'model.toml: engine: "own.py:Numpy" cannot be used: {reason}' in refusal(tmp_path)


def test_a_module_that_is_not_installed_says_so(tmp_path: Path) -> None:
    numpy_model(tmp_path, toml='task = "tensor"\nengine = "no_such_module:Numpy"')
    assert "ModuleNotFoundError: No module named 'no_such_module'" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ('{"y": (arrays["x"] @ self.weights)[:1]}', "output 'y' is a float32 [1, 3]; allowed: FP32 [2, 3]"),
        ('{"y": (arrays["x"] @ self.weights).astype("f8")}', "output 'y' is a float64 [2, 3]; allowed: FP32 [2, 3]"),
        ('{"z": arrays["x"]}', "KeyError: 'y'"),
        ("exit(1)", "SystemExit: 1"),
    ],
)
def test_the_outputs_of_an_engine_are_validated(tmp_path: Path, result: str, reason: str) -> None:
    source = changed('return {"y": arrays["x"] @ self.weights}', f"return {result}")
    numpy_model(
        tmp_path, source=source, toml='task = "tensor"\nengine = "own.py:Numpy"\nmax_batch = 4\nbatching = "trust"'
    )
    model = opened(tmp_path)
    with pytest.raises(RunFailed) as caught:
        model.run({"x": np.ones((2, 2), np.float32)})
    assert reason in str(caught.value)
    assert caught.value.fault == "input"


def test_an_engine_classifies_its_own_failures(tmp_path: Path) -> None:
    body = 'from jitney import RunFailed; raise RunFailed("full", "memory")'
    source = changed('return {"y": arrays["x"] @ self.weights}', body)
    numpy_model(
        tmp_path, source=source, toml='task = "tensor"\nengine = "own.py:Numpy"\nmax_batch = 4\nbatching = "trust"'
    )
    with pytest.raises(RunFailed) as caught:
        opened(tmp_path).run({"x": np.ones((1, 2), np.float32)})
    assert (caught.value.reason, caught.value.fault) == ("full", "memory")


def test_a_version_folder_may_hold_any_files(tmp_path: Path) -> None:
    folder = numpy_model(tmp_path)
    (folder / "2").mkdir()
    (found,) = list_models(tmp_path)
    assert not isinstance(found, BrokenModel)
    assert found.version == "1"  # an empty one is being made
    (folder / "1" / "weights.npy").unlink()
    assert "allowed: a numeric folder with the files of its engine in it" in refusal(tmp_path)


def test_a_custom_engine_is_checked_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = numpy_model(tmp_path)
    assert models_command(["check", str(folder)]) == 0
    assert "own version 1: passes the check" in capsys.readouterr().out
    assert models_command(["profile", str(folder)]) != 0
    assert "cannot be profiled" in capsys.readouterr().err
