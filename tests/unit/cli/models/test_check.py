"""`jitney models check` finds planted leaks and padding bugs, names them, and passes sound models."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from batching import collation
from cli import main
from tests.support import models
from tests.support.model_files.cases import COUPLED
from tests.support.model_files.graphs import int64_constant, node, numbers, write

Said = pytest.CaptureFixture[str]


def check(*args: object) -> int:
    return main.main(["models", "check", *map(str, args), "--provider", "cpu"])


def faint(path: Path) -> Path:
    """A leak too small for any tolerance: a billionth of the batch's mean is added to each row."""
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[0]),
        node("Mul", ["m", "little"], ["l"]),
        node("Add", ["x", "l"], ["y"]),
    ]
    return write(path, nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {"little": np.array(1e-9, np.float32)})


def reversed_rows(path: Path) -> Path:
    """Rows are returned in reverse order; only the middle row of an odd batch is right."""
    ends = {
        "from": int64_constant(-1),
        "to": int64_constant(-(2**31)),
        "axis": int64_constant(0),
        "by": int64_constant(-1),
    }
    nodes = [node("Slice", ["x", "from", "to", "axis", "by"], ["y"])]
    return write(path, nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, ends)


def counted(path: Path) -> Path:
    """A padding bug of a model: each answer is divided by the number of rows, padding included."""
    nodes = [
        node("Shape", ["x"], ["s"], end=1),
        node("Cast", ["s"], ["n"], to=TensorProto.FLOAT),
        node("Div", ["x", "n"], ["y"]),
    ]
    return write(path, nodes, {"x": ["N", 4]}, {"y": ["N", 4]})


def pixels(path: Path) -> Path:
    """A leak of whole numbers, where NaN cannot be sent."""
    nodes = [
        node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        node("ReduceMax", ["f"], ["m"], axes=[0]),
        node("Sub", ["f", "m"], ["y"]),
    ]
    return write(path, nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, kinds={"x": TensorProto.UINT8})


@pytest.mark.parametrize("plant", [faint, reversed_rows, counted, pixels])
def test_a_planted_fault_is_found(plant: Callable[[Path], Path], tmp_path: Path, capsys: Said) -> None:
    assert check(plant(tmp_path / "model.onnx")) == 1
    assert "FAILS the check" in capsys.readouterr().out


def test_the_faintest_leak_is_named_as_such(tmp_path: Path, capsys: Said) -> None:
    check(faint(tmp_path / "model.onnx"), "--sizes", "2,5")
    told = capsys.readouterr().out
    words = (
        "rows are mixed: beside neighbours of NaN in a batch of {} a row's result (output 'y') is not a number any more"
    )
    assert words.format(2) in told
    assert words.format(5) in told


@pytest.mark.parametrize("case", [case for case in COUPLED if case != "one list for all"])
def test_every_operator_that_couples_rows_shows(case: str, tmp_path: Path, capsys: Said) -> None:
    """The doctor's list and the check's findings agree independently."""
    assert check(COUPLED[case][1](tmp_path / "model.onnx", "N")) == 1
    assert "FAILS the check" in capsys.readouterr().out


def fold_padding_first(items: Sequence[collation.Arrays], padded_size: int = 0) -> dict[str, Any]:
    """A padding bug of collation: padding is added in front, and every row moves back."""
    padding = [items[0]] * (padded_size - len(items))
    return {name: np.stack([item[name] for item in [*padding, *items]]) for name in items[0]}


def fold_with_stale_rows(items: Sequence[collation.Arrays], padded_size: int = 0) -> dict[str, Any]:
    """Another padding bug: a buffer is reused, and its last row is written too early."""
    batch = collation.stack_items(items, padded_size)
    if padded_size > len(items):
        for array in batch.values():
            array[len(items) - 1] = array[0]
    return batch


@pytest.mark.parametrize("planted", [fold_padding_first, fold_with_stale_rows])
def test_a_planted_padding_bug_in_collation_is_found(
    planted: Callable[..., Any], tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models.doubling(tmp_path) / "1" / "model.onnx"
    assert check(path) == 0
    monkeypatch.setattr("model_runtime.profiling.batch_consistency.stack_items", planted)
    assert check(path) == 1
    told = capsys.readouterr().out
    assert "padded to" in told.partition("FAILS the check: ")[2].partition("\n")[0]


def test_sound_models_pass_and_the_tried_sizes_are_shown(shared_data: Path, capsys: Said) -> None:
    path = shared_data / "models" / "squeezenet1.1_fp32_dynbatch.derived.onnx"
    assert check(path, "--sizes", "2,4", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["passed"], told["sizes"], told["found"]["leaks"]) == (True, [2, 4], [])
    assert told["found"]["runs"] >= 15
    assert 0 <= told["found"]["drift"] <= 1e-3


def test_drift_is_compared_with_the_tolerance(tmp_path: Path, capsys: Said) -> None:
    """Each answer is a little larger in a larger batch, as if numbers were summed in another order."""
    nodes = [
        node("Shape", ["x"], ["s"], end=1),
        node("Cast", ["s"], ["n"], to=TensorProto.FLOAT),
        node("Mul", ["n", "little"], ["l"]),
        node("Add", ["x", "l"], ["y"]),
    ]
    little = {"little": np.array(1e-4, np.float32)}
    path = write(tmp_path / "model.onnx", nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, little)
    assert check(path, "--sizes", "2,3", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert 5e-5 < told["found"]["drift"] < 1e-3
    assert "in a batch of 3" in told["found"]["where"]
    assert check(path, "--sizes", "2,3", "--tolerance", "1e-5") == 1
    assert "times its largest number in a batch of 3" in capsys.readouterr().out


def test_a_model_that_cannot_be_batched_fails_with_the_reason(shared_data: Path, capsys: Said) -> None:
    assert check(shared_data / "models" / "squeezenet1.1_fp16.onnx") == 1
    assert "it cannot be batched: input 'data_0' has its first dimension fixed at 1" in capsys.readouterr().out


def test_open_dimensions_are_guessed_and_reported(tmp_path: Path, capsys: Said) -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    path = write(tmp_path / "model.onnx", nodes, {"x": ["N", "S"]}, {"y": ["N", 2]}, {"w": numbers(64, 2)})
    assert check(path) == 0
    assert "free dimensions were set to 64" in capsys.readouterr().out


def test_all_models_of_a_folder_are_checked_and_broken_ones_named(tmp_path: Path, capsys: Said) -> None:
    models.doubling(tmp_path, "good")
    models.doubling(tmp_path, "typo", 'task = "tensor"\nmax_bach = 3')
    wrong = models.doubling(tmp_path, "labels", 'task = "image-classification"\n[classification]\nlabels = "l.txt"')
    (wrong / "l.txt").write_text("one\ntwo\n")
    (models.doubling(tmp_path, "corrupt") / "1" / "model.onnx").write_bytes(b"xx")
    assert check(tmp_path) == 1
    told = capsys.readouterr()
    assert "good version 1: passes the check" in told.out
    lines = told.err.splitlines()
    assert len(lines) == 3
    for words in ("max_bach: unknown key; allowed: ", "allowed for images: ", "model.onnx: is not an ONNX model"):
        assert sum(words in line for line in lines) == 1
    assert check(tmp_path / "good") == check(tmp_path / "good" / "1") == 0


@pytest.mark.parametrize(
    ("option", "allowed"),
    [(("--sizes", "0"), "1 to 4096"), (("--sizes", "2,x"), "1 to 4096"), (("--tolerance", "nan"), "from 1e-09 to 1")],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(option: tuple[str, str], allowed: str, capsys: Said) -> None:
    with pytest.raises(SystemExit, match="2"):
        check("models", *option)
    assert allowed in capsys.readouterr().err
