"""A model's folder may hold its own task; its errors at load are one line for the operator."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_runtime.model import Model, load_model
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.spec.model_toml import ModelError

Relu = Callable[..., Path]
HEAD = """
from dataclasses import dataclass
import numpy as np
from jitney import Task

@dataclass
class Count:
    values: int

class Bytes(Task):
    kinds = frozenset({"raw"})
"""
BODY = """
    def preprocess(self, kind, data, parameters):
        return {"x": np.frombuffer(data, np.uint8).astype(np.float32)}

    def postprocess(self, outputs, parameters):
        return {"count": Count(int(outputs["y"].sum())).values}
"""


def loaded(relu: Relu, tmp_path: Path, code: str, task: str = "mine.py:Bytes") -> Model:
    folder = relu(f'task = "{task}"\nmax_wait_ms = 2.5', ["N", 4])
    (folder / "mine.py").write_text(code)
    [found] = list_models(tmp_path)
    assert isinstance(found, ModelFolder)
    return load_model(found)


def test_a_custom_task_serves(relu: Relu, tmp_path: Path) -> None:
    model = loaded(relu, tmp_path, HEAD + BODY)
    arrays = model.preprocess("raw", bytes([1, 2, 3, 4]), {})
    outputs = model.run({name: array[np.newaxis] for name, array in arrays.items()})
    assert model.postprocess({name: array[0] for name, array in outputs.items()}, {}) == {"count": 10}
    assert (model.offload, model.max_wait_s, model.card()["raw_bytes"]) == (True, 0.0025, 16)


@pytest.mark.parametrize(
    ("code", "task", "reason"),
    [
        ("1 +", "mine.py:Bytes", "mine.py: Bytes: SyntaxError"),
        ("import nowhere", "mine.py:Bytes", "ModuleNotFoundError: No module named 'nowhere'"),
        ("raise SystemExit(3)", "mine.py:Bytes", "SystemExit: 3"),
        (HEAD, "mine.py:Bytes", "TypeError: Can't instantiate abstract class Bytes"),
        (HEAD + BODY, "mine.py:Byte", "Byte: is not a class in this file derived from"),
        ("class Bytes: pass", "mine.py:Bytes", "Bytes: is not a class in this file derived from"),
        (
            HEAD + BODY + '    kinds = frozenset({"video"})',
            "mine.py:Bytes",
            "allowed: one or more of ['audio', 'bytes', 'image', 'json'",
        ),
        (HEAD + BODY + "    kinds = None", "mine.py:Bytes", "kinds = None; allowed"),
        (
            HEAD + BODY + '    kinds, input_fields = frozenset({"json"}), ("prices",)',
            "mine.py:Bytes",
            "input_fields = ('prices',); allowed: some of features",
        ),
        (HEAD + BODY + "    def __init__(self, *_): raise ValueError('a\\nb')", "mine.py:Bytes", "ValueError: a b"),
        ("", "other.py:Bytes", "other.py cannot be read: No such file"),
        ("", "outside.py:Bytes", "outside.py leads outside of the folder"),
    ],
)
def test_a_bad_custom_task_is_one_line(relu: Relu, tmp_path: Path, code: str, task: str, reason: str) -> None:
    (tmp_path / "relu").mkdir()
    (tmp_path / "relu" / "outside.py").symlink_to(__file__)
    with pytest.raises(ModelError) as caught:
        loaded(relu, tmp_path, code, task)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_raw_bytes_of_a_model_with_free_dimensions_are_refused_at_load(relu: Relu, tmp_path: Path) -> None:
    """Such a task used to be ready, and the gateway refused each of its jobs."""
    folder = relu('task = "mine.py:Bytes"', ["N", "length"])
    (folder / "mine.py").write_text(HEAD + BODY)
    [found] = list_models(tmp_path)
    assert isinstance(found, ModelFolder)
    with pytest.raises(ModelError, match="every job would be refused; allowed: bytes"):
        load_model(found)
    (folder / "mine.py").write_text(HEAD + BODY + '    kinds = frozenset({"bytes"})')
    assert load_model(found).card()["kinds"] == ["bytes"]
