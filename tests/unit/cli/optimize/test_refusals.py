"""Models that cannot be optimized are refused in one line, and the repository stays as it was."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from cli import main
from tests.support import models
from tests.support.model_files import graphs
from tests.support.model_files.optimize import SAMPLES, Optimize, everything
from tests.support.service import DIGITS

Say = Callable[..., tuple[int, str]]
TENSOR = 'task = "tensor"'


@pytest.fixture
def say(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run the command without --json; return its exit code and its one-line error."""

    def run(*argv: str | Path, name: str = "digits") -> tuple[int, str]:
        before = everything(models_dir)
        try:
            code = main.main(["models", "optimize", name, "--models-dir", str(models_dir), *map(str, argv)])
        except SystemExit as error:  # argparse
            code = int(str(error.code))
        said = capsys.readouterr().err
        after = everything(models_dir)
        assert {name: text for name, text in after.items() if "__pycache__" not in name} == before
        assert not list(models_dir.rglob(".*"))
        return code, said

    return run


def lay_out(models_dir: Path, name: str, toml: str, *nodes: object, **more: object) -> Path:
    graphs.write(models_dir / name / "1" / "model.onnx", nodes, **more)  # type: ignore[arg-type]
    (models_dir / name / "model.toml").write_text(toml)
    return models_dir / name


def test_no_version_appears_below_the_minimum_agreement(models_dir: Path, optimize: Optimize, tmp_path: Path) -> None:
    """Calibrated on black alone, every activation of a real digit is out of int8's range."""
    black = tmp_path / "black"
    black.mkdir()
    picture = a_black_picture()
    for number in range(8):
        (black / f"{number}.png").write_bytes(picture)
    before = everything(models_dir)
    code, said = optimize("--int8", "--calibrate", black, "--validate", SAMPLES, "--seconds", "0.1")
    assert code == 1
    assert said["agreement"]["share"] < 0.95
    assert re.search(r"[\d.]+% of 50 outputs agree with version 1; allowed: 95.0% or more", said["reason"])
    assert said["latency_ms"]  # the table is there all the same: it is what one decides by
    assert (said["version"], said["written"]) == ("", "")
    assert everything(models_dir) == before
    code, said = optimize("--int8", "--calibrate", black, "--validate", SAMPLES, "--no-measure", "--min-agreement", "0")
    assert (code, said["version"]) == (0, "2")


def a_black_picture() -> bytes:
    file = io.BytesIO()
    Image.new("L", (28, 28)).save(file, "PNG")
    return file.getvalue()


def test_files_that_are_no_images_are_skipped_counted_and_reported(optimize: Optimize, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    (mixed / "below").mkdir(parents=True)
    for path in DIGITS[:12]:
        (mixed / "below" / path.name).write_bytes(path.read_bytes())
    (mixed / "notes.txt").write_text("buy milk")
    (mixed / "more.csv").write_text("a,b")
    (mixed / "cut.png").write_bytes(DIGITS[0].read_bytes()[:60])
    code, said = optimize("--fp16", "--validate", mixed, "--no-measure")
    assert (code, said["agreement"]["rows"]) == (0, 12)
    assert "2 skipped, such as more.csv: not an image" in said["notes"]
    assert any(note.startswith("1 skipped, such as cut.png: the PNG data is damaged") for note in said["notes"])


def test_too_few_images_are_refused_with_their_number(say: Say, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in DIGITS[:7]:
        (few / path.name).write_bytes(path.read_bytes())
    (few / "notes.txt").write_text("buy milk")
    code, said = say("--int8", "--calibrate", few)
    assert code == 1
    assert said == (
        f"jitney models: {few}: --calibrate: 7 usable images; allowed: 8 or more representative ones; "
        "1 skipped, such as notes.txt: not an image\n"
    )


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--int8"], 2, r"--int8 needs --calibrate FOLDER: a folder of 8 or more examples"),
        (["--calibrate", "x"], 2, r"--calibrate requires --int8"),
        (["--int8", "--fp16", "--calibrate", "x"], 2, r"not allowed with argument --int8"),
        (["--no-graph"], 2, r"leaves nothing to do: combine it with --fp16, --int8 or --fold"),
        (["--min-agreement", "2"], 2, r"'2': must be a number from 0 to 1"),
        (["--threads", "1.5"], 2, r"'1.5': must be an integer from 0"),
        (["--int8", "--calibrate", "nowhere"], 2, r"--calibrate nowhere: no such folder"),
        (["--provider", "cuda"], 1, r"cuda.*(no NVIDIA GPU|has no CUDAExecutionProvider)"),
    ],
)
def test_invalid_options_are_refused(say: Say, argv: list[str], code: int, words: str) -> None:
    got, said = say(*argv)
    assert got == code
    assert re.search(words, said)


def test_a_missing_model_is_refused(say: Say, models_dir: Path) -> None:
    code, said = say(name="digit")
    assert (code, said) == (
        2,
        f"jitney models: no model 'digit' in {models_dir}, and no such path; allowed: a model name or folder\n",
    )


def test_a_file_by_itself_has_no_repository_for_a_version(say: Say, models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.onnx").write_bytes((models_dir / "digits" / "1" / "model.onnx").read_bytes())
    code, said = say(name=str(tmp_path / "alone.onnx"))
    assert code == 1
    assert "is a single file; allowed: a model folder" in said


def test_a_model_that_cannot_be_batched_is_referred_to_the_doctor(say: Say, models_dir: Path) -> None:
    node = graphs.node("Relu", ["x"], ["y"])
    lay_out(models_dir, "single", TENSOR, node, inputs={"x": [1, 4]}, outputs={"y": [1, 4]})
    code, said = say(name="single")
    assert code == 1
    assert "cannot be batched: input 'x' has its first dimension fixed at 1; `jitney models doctor`" in said


def test_int8_names_the_operators_that_gain_nothing(say: Say, models_dir: Path, tmp_path: Path) -> None:
    nodes = [graphs.node("Erf", ["x"], ["h"]), graphs.node("Relu", ["h"], ["y"])]
    lay_out(models_dir, "erf", TENSOR, *nodes, inputs={"x": ["N", 4]}, outputs={"y": ["N", 4]})
    rows(tmp_path / "rows", 4)
    code, said = say("--int8", "--calibrate", tmp_path / "rows", name="erf")
    assert code == 1
    assert "--int8: none of its operators benefits: Erf 1, Relu 1; allowed: a model with Conv, ConvTranspose" in said


def rows(folder: Path, width: int, count: int = 16) -> Path:
    folder.mkdir()
    np.savez(folder / "rows.npz", x=np.random.default_rng(1).standard_normal((count, width), np.float32))
    return folder


def test_a_model_of_tensors_is_calibrated_with_npz(models_dir: Path, optimize: Optimize, tmp_path: Path) -> None:
    """Operators without an int8 form stay in float, and are named."""
    nodes = [
        graphs.node("MatMul", ["x", "w0"], ["h"]),
        graphs.node("Erf", ["h"], ["e"]),
        graphs.node("MatMul", ["e", "w1"], ["s"]),
        graphs.node("Softmax", ["s"], ["y"]),
    ]
    weights = {"w0": graphs.numbers(32, 64) / 6, "w1": graphs.numbers(64, 8) / 6}
    lay_out(models_dir, "mlp", TENSOR, *nodes, inputs={"x": ["N", 32]}, outputs={"y": ["N", 8]}, constants=weights)
    code, said = optimize("--int8", "--calibrate", rows(tmp_path / "rows", 32, 64), "--no-measure", name="mlp")
    assert (code, said["reason"]) == (0, "")
    assert said["agreement"]["rule"] == "every output within 0.05 of its largest number"
    assert said["agreement"]["rows"] == 32
    assert {"in int8: MatMul 2", "left in float: Erf 1, Softmax 1"} <= {*said["notes"]}, said["notes"]


def test_a_model_of_tensors_is_not_calibrated_with_pictures(say: Say, models_dir: Path) -> None:
    models.perceptron(models_dir)
    code, said = say("--int8", "--calibrate", SAMPLES, name="perceptron")
    assert code == 1
    assert "0 usable rows of tensors; allowed: 8 or more" in said
    assert (
        "50 skipped, such as 0_01.png: not an example; allowed: a .json file with the input of a request, .npy or .npz"
        in said
    )


def test_arrays_of_another_shape_are_skipped_with_what_is_expected(say: Say, models_dir: Path, tmp_path: Path) -> None:
    models.perceptron(models_dir)
    code, said = say("--int8", "--calibrate", rows(tmp_path / "rows", 5), name="perceptron")
    assert code == 1
    assert "expected 'x', FP32 of shape [784] or a batch of them, got float32 of shape [16, 5]" in said


def test_fold_and_fp16_are_refused_where_they_change_nothing(say: Say, models_dir: Path) -> None:
    models.perceptron(models_dir)
    code, said = say("--fold", name="perceptron")
    assert code == 1
    assert "--fold: the model takes tensors, not images; allowed: an image task" in said
    whole = graphs.node("Add", ["x", "x"], ["y"])
    kinds = {"x": TensorProto.INT64, "y": TensorProto.INT64}
    lay_out(models_dir, "whole", TENSOR, whole, inputs={"x": ["N", 4]}, outputs={"y": ["N", 4]}, kinds=kinds)
    code, said = say("--fp16", name="whole")
    assert code == 1
    assert "--fp16: it has no FP32 weights; allowed: a model that has some" in said


def test_a_custom_task_cannot_be_folded(say: Say, models_dir: Path) -> None:
    code_of_ones_own = "from jitney import ImageClassification as Mine\n"
    (models_dir / "digits" / "mine.py").write_text(code_of_ones_own)
    toml = models_dir / "digits" / "model.toml"
    toml.write_text(toml.read_text().replace('task = "image-classification"', 'task = "mine.py:Mine"'))
    code, said = say("--fold")
    assert code == 1
    assert "--fold: its custom task may preprocess in any way; allowed: a built-in image task" in said


def test_int8_of_int8_and_fold_of_folded_are_refused(optimize: Optimize, say: Say) -> None:
    optimize("--int8", "--fold", "--calibrate", SAMPLES, "--no-measure")
    code, said = say("--fold")
    assert code == 1
    assert "--fold: it takes pixels UINT8; allowed: one input of FP16, FP32, FP64" in said
    code, said = say("--int8", "--calibrate", SAMPLES)
    assert code == 1
    assert "--int8: it is already quantized; allowed: its original version" in said


def test_an_opset_that_cannot_be_raised_is_named(say: Say, models_dir: Path, tmp_path: Path) -> None:
    nodes = [graphs.node("MatMul", ["x", "w"], ["h"]), graphs.node("ThresholdedRelu", ["h"], ["y"])]
    ports = {"inputs": {"x": ["N", 8]}, "outputs": {"y": ["N", 8]}}
    lay_out(models_dir, "old", TENSOR, *nodes, **ports, constants={"w": graphs.numbers(8, 8)}, opset=9)
    code, said = say("--int8", "--calibrate", rows(tmp_path / "rows", 8), name="old")
    assert code == 1
    words = "cannot upgrade its opset 9 to 13: No Adapter From Version $9 for ThresholdedRelu"
    assert f"{words}; allowed: an export with opset 13 or newer" in said
