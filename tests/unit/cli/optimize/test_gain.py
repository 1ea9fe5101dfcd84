"""A version that is not faster does not go live."""

from pathlib import Path

import numpy as np
import pytest

from cli import main
from cli.models.optimizing.evaluation.report import OptimizationReport
from cli.models.optimizing.evaluation.timing import Latency, LatencyPair
from cli.models.optimizing.options import OptimizeOptions
from cli.models.optimizing.run import _no_gain_reason
from tests.support.model_files import graphs
from tests.support.model_files.optimize import Optimize, everything


def measured(gain: float, written: str = "") -> OptimizationReport:
    old = Latency(1.0, 1.0)
    return OptimizationReport(
        "m", "1", "int8", latency_ms={1: LatencyPair(old, Latency(1 / gain, 1 / gain))}, written=written
    )


@pytest.mark.parametrize(
    ("gain", "least", "is_taken"),
    [
        (0.77, 1.05, False),
        (1.0, 1.05, False),
        (1.04, 1.05, False),
        (1.06, 1.05, True),
        (2.2, 1.05, True),
        (0.77, 0.7, True),
        (0.77, 0.0, True),
        (1.5, 2.0, False),
    ],
)
def test_the_gain_must_exceed_chance(gain: float, least: float, *, is_taken: bool) -> None:
    reason = _no_gain_reason(measured(gain), OptimizeOptions(min_gain=least))
    assert (not reason) == is_taken
    if not is_taken:
        assert reason.startswith(
            f"it is not faster here: {gain:.2f} x the throughput of version 1; allowed: {least:g} x"
        )


def test_an_unmeasurable_version_is_not_called_faster() -> None:
    unmeasured = OptimizationReport("m", "1", "int8")
    assert "its speed cannot be measured" in _no_gain_reason(unmeasured, OptimizeOptions())
    assert "--no-measure skips the measurement" in _no_gain_reason(unmeasured, OptimizeOptions())
    assert not _no_gain_reason(unmeasured, OptimizeOptions(min_gain=0.0))


def test_the_last_line_names_the_live_version() -> None:
    slower = measured(0.77, written="models/m/2")
    assert slower.lines()[-1].endswith("unless another version is pinned; it is SLOWER here: 0.77 x the throughput")
    assert slower.as_json()["gain"] == 0.77
    assert (
        OptimizationReport("m", "1", "int8", written="models/m/2").lines()[-1].endswith("; its speed was not measured")
    )
    assert measured(1.5, written="models/m/2").lines()[-1].endswith("unless another version is pinned")


@pytest.fixture
def tiny(models_dir: Path, tmp_path: Path) -> list[str]:
    """A product that is smaller than its int8 conversions, and the options to quantize it."""
    node = graphs.node("MatMul", ["x", "w"], ["y"])
    file, weights = models_dir / "tiny" / "1" / "model.onnx", {"w": graphs.numbers(8, 8)}
    graphs.write(file, [node], inputs={"x": ["N", 8]}, outputs={"y": ["N", 8]}, constants=weights)
    (models_dir / "tiny" / "model.toml").write_text('task = "tensor"\nmax_batch = 2')
    rows = tmp_path / "rows"
    rows.mkdir()
    np.savez(rows / "rows.npz", x=np.random.default_rng(1).standard_normal((32, 8), np.float32))
    return ["--int8", "--calibrate", str(rows), "--min-agreement", "0", "--seconds", "0.2"]


def test_a_slower_version_is_refused_and_nothing_is_written(
    models_dir: Path, optimize: Optimize, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(models_dir)
    code, said = optimize(*tiny, name="tiny")
    assert (code, said["version"], said["written"]) == (1, "", "")
    assert said["gain"] < 1.05
    assert said["reason"].startswith("it is not faster here: ")
    assert everything(models_dir) == before
    assert main.main(["models", "optimize", "tiny", "--models-dir", str(models_dir), *tiny]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("no version was written: it is not faster here: ")


def test_a_slower_version_is_written_on_request(optimize: Optimize, tiny: list[str]) -> None:
    code, said = optimize(*tiny, "--min-gain", "0", name="tiny")
    assert (code, said["version"], said["reason"]) == (0, "2", "")
    code, said = optimize("--fp16", "--no-measure", "--min-agreement", "0", name="digits")
    assert (code, said["version"], said["reason"]) == (0, "2", "")
