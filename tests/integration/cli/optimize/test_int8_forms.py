"""The int8 formats for other processors, external weights, sizes, and the progress bar."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from batching.collation import stack_items
from cli.models.optimizing.evaluation import calibration_data
from cli.models.optimizing.evaluation.loaded_version import LoadedVersion, open_version
from cli.models.optimizing.passes import int8, onnx_graphs
from model_runtime.repository.repository import ModelFolder, list_models
from tests.support.model_files.optimize import SAMPLES, Optimize
from tests.support.service import ROOT

QUICK = ("--seconds", "0.1", "--min-gain", "0")


@pytest.fixture
def digits() -> LoadedVersion:
    [found] = list_models(ROOT / "models", ["digits"])
    assert isinstance(found, ModelFolder)
    return open_version(found, "cpu", 1)


def quantized(
    served: LoadedVersion, folder: Path, provider: str
) -> tuple[dict[str, np.ndarray], onnx.GraphProto, list[str]]:
    """Return the constants by name, the graph, and the output."""
    shown = calibration_data.load_examples(SAMPLES, served, "--calibrate", lambda items: items)
    source = onnx_graphs.simplify(served.folder.onnx, folder / "source.onnx", optimize=True)
    feeds = (served.engine.arrange(stack_items([example(served.task)])) for example in shown.rows)
    notes = int8.write(source, folder / "eight.onnx", served.folder.onnx, feeds, provider)
    graph = onnx.load(folder / "eight.onnx").graph
    return {one.name: numpy_helper.to_array(one) for one in graph.initializer}, graph, notes


def test_int8_for_a_gpu_is_symmetric(digits: LoadedVersion, tmp_path: Path) -> None:
    """TensorRT accepts only the zero point 0."""
    constants, graph, _ = quantized(digits, tmp_path, "tensorrt")
    points = [constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert points
    assert {point.dtype for point in points} == {np.dtype(np.int8)}
    assert all(not point.any() for point in points)


@pytest.mark.parametrize(("saturates", "most"), [(True, 64), (False, 127)])
def test_weights_have_seven_bits_where_eight_would_overflow(
    digits: LoadedVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saturates: bool, most: int
) -> None:
    monkeypatch.setattr(int8, "_has_saturating_int8", lambda: saturates)
    constants, _, notes = quantized(digits, tmp_path, "cpu")
    weights = [values for values in constants.values() if values.dtype == np.int8 and values.ndim > 1]
    assert max(np.abs(one.astype(int)).max() for one in weights) == most
    assert any("7 bits" in note for note in notes) == saturates


def test_external_weights_are_written_into_one_file(models_dir: Path, optimize: Optimize) -> None:
    path = models_dir / "digits" / "1" / "model.onnx"
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    code, said = optimize("--no-measure")
    assert (code, said["agreement"]["drift"]) == (0, 0.0)
    assert {one.name for one in (models_dir / "digits" / "2").iterdir()} == {"model.onnx", "optimized.json"}
    assert 0.9 < said["bytes_new"] / said["bytes_old"] < 1.1


@pytest.mark.parametrize(
    ("keys", "sizes"),
    [("max_batch = 4", ["1", "2", "4"]), ("max_batch = 32\nbuckets = [1, 6]", ["1", "6", "32"])],
)
def test_the_measured_sizes_are_those_used_in_service(
    models_dir: Path, optimize: Optimize, keys: str, sizes: list[str]
) -> None:
    toml = models_dir / "digits" / "model.toml"
    toml.write_text(toml.read_text().replace("max_batch = 32", keys))
    _, said = optimize("--no-write", *QUICK)
    assert [*said["latency_ms"]] == sizes


def test_the_pinned_version_is_optimized(models_dir: Path, optimize: Optimize) -> None:
    optimize("--no-measure")
    toml = models_dir / "digits" / "model.toml"
    toml.write_text(toml.read_text().replace('task = "image', 'version = "1"\ntask = "image', 1))
    _, said = optimize("--no-measure")
    assert (said["made_from"], said["version"]) == ("1", "3")


def test_a_progress_bar_is_shown_at_a_terminal_and_the_table_follows(models_dir: Path) -> None:
    watching, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    command = [sys.executable, "-m", "cli.main", "models", "optimize", "digits", "--models-dir", str(models_dir)]
    process = subprocess.Popen(
        [*command, "--int8", "--calibrate", str(SAMPLES), *QUICK], cwd=ROOT, stdout=subprocess.PIPE, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(watching, 4096):
            shown += part
    except OSError:  # the other end is closed: it has ended
        pass
    finally:
        os.close(watching)
    table, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    for stage in ("reading files", "calibrating", "comparing answers", "measuring"):
        assert f"{stage}:   0%".encode() in shown
    assert table.decode().startswith("digits: version 1, int8, simplified, on ")
    assert b"throughput, rows/s" in table
