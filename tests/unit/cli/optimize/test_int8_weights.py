"""Weights of 8 bits: a quarter of the size, no examples, rows apart; for text and LSTMs too."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from cli import main
from model_runtime.model import load_model
from model_runtime.repository.repository import ModelFolder, list_models
from tests.support import models
from tests.support.model_files import graphs
from tests.support.model_files.optimize import SAMPLES, Optimize


def text_model(path: Path, *, shared: bool = False) -> Path:
    """Ids, a table, an LSTM of two directions, and scores, by the table itself if `shared`."""
    nodes = [
        graphs.node("Gather", ["table", "ids"], ["e"]),
        graphs.node("Transpose", ["e"], ["t"], perm=[1, 0, 2]),
        graphs.node("LSTM", ["t", "w", "r"], ["a"], hidden_size=16, direction="bidirectional"),
        graphs.node("Transpose", ["a"], ["u"], perm=[2, 0, 1, 3]),
        graphs.node("Reshape", ["u", "to"], ["h"]),
        graphs.node("MatMul", ["h", "scores"], ["y"]),
    ]
    constants: dict[str, Any] = {
        "table": graphs.numbers(500, 32),
        "w": graphs.numbers(2, 64, 32) / 6,
        "r": graphs.numbers(2, 64, 16) / 4,
        "to": graphs.int64_constant(0, -1, 32),
        "scores": graphs.numbers(32, 40) / 6,
    }
    if shared:
        nodes[5:] = [
            graphs.node("Transpose", ["table"], ["scores"], perm=[1, 0]),
            graphs.node("MatMul", ["h", "scores"], ["s"]),
            graphs.node("Softmax", ["s"], ["y"]),
        ]
        del constants["scores"]
    inputs: dict[str, graphs.Shape] = {"ids": ["N", 6]}
    outputs: dict[str, graphs.Shape] = {"y": ["N", 6, 500 if shared else 40]}
    return graphs.write(path, nodes, inputs, outputs, constants, kinds={"ids": TensorProto.INT64})


@pytest.mark.parametrize("shared", [False, True])
def test_a_model_of_text_keeps_its_answers_and_its_rows_apart(
    models_dir: Path, optimize: Optimize, *, shared: bool
) -> None:
    text_model(models_dir / "text" / "1" / "model.onnx", shared=shared)
    (models_dir / "text" / "model.toml").write_text('task = "tensor"\nprovider = "cpu"\nthreads = 1')
    code, said = optimize("--int8-weights", "--seconds", "0.1", "--min-agreement", "0.9", name="text")
    assert (code, said["reason"]) == (0, "")
    assert said["agreement"]["share"] >= 0.9
    assert said["bytes_new"] < 0.5 * said["bytes_old"] or shared
    operators = {each.op_type for each in onnx.load(models_dir / "text" / "2" / "model.onnx").graph.node}
    assert not any(name.startswith("DynamicQuantize") for name in operators)
    assert "DequantizeLinear" in operators
    [folder] = [each for each in list_models(models_dir, ["text"]) if isinstance(each, ModelFolder)]
    model = load_model(folder)
    card = model.card()
    assert (card["version"], card["checked"], card["batchable"]) == ("2", True, True)
    ids = np.random.default_rng(1).integers(0, 500, (8, 6))
    together = model.run({"ids": ids})["y"]
    for at in range(8):
        np.testing.assert_allclose(model.run({"ids": ids[at : at + 1]})["y"][0], together[at], rtol=1e-4, atol=1e-5)


def test_a_convolutional_model_needs_no_examples(models_dir: Path, optimize: Optimize) -> None:
    code, said = optimize("--int8-weights", "--no-measure", "--validate", SAMPLES)
    assert (code, said["reason"]) == (0, "")
    assert said["agreement"]["share"] == 1
    assert any(note.startswith("weights in int8: Conv 2, Gemm 1") for note in said["notes"]), said["notes"]
    assert main.main(["models", "check", str(models_dir / "digits"), "--provider", "cpu"]) == 0


def test_a_model_without_large_weights_is_refused(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.doubling(models_dir)
    argv = ["models", "optimize", "double", "--models-dir", str(models_dir), "--int8-weights", "--no-measure"]
    assert main.main(argv) == 1
    assert "--int8-weights: it has no FP32 weights of 1024 numbers or more" in capsys.readouterr().err
