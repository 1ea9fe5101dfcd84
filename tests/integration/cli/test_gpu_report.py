"""`jitney gpu-report` without a GPU: the CPU is measured, and the gaps of the others are named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.gpu_report import command as gpu_report
from model_runtime.engine.device_info import query_driver
from tests.support import models
from tests.support.model_files.engines import numpy_model
from tests.support.processes import ROOT

pytestmark = pytest.mark.skipif(not query_driver().problem, reason="there is a GPU")

BUCKET = {"rows", "p50_ms", "p99_ms", "rows_per_s", "raw_rows_per_s", "share_of_raw", "prepare_ms"}
BUCKET |= {"drift", "max_abs_drift", "top1_agreement"}


def asked(*argv: str) -> tuple[int, dict[str, Any], str]:
    """Return the exit code, the report and the output."""
    command = [sys.executable, "-m", "cli.main", "gpu-report", "--seconds", "0.1", *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def test_the_cpu_is_measured_also_through_the_queue_and_missing_providers_are_explained() -> None:
    code, report, words = asked("models/digits", "--concurrency", "8")
    assert code == gpu_report.MISSING, words
    rows = report["providers"]
    assert [*rows] == ["cpu", "cuda", "tensorrt"]
    for name in ("cuda", "tensorrt"):
        assert rows[name].keys() == {"ran", "missing"}
        assert not rows[name]["ran"]
        assert "no NVIDIA GPU: libcuda.so.1 is not installed" in rows[name]["missing"]
        assert f"{name} was not measured: {rows[name]['missing']}\n" in words
    cpu = rows["cpu"]
    assert (cpu["ran"], cpu["provider"], cpu["agrees"], cpu["top1_agreement"]) == (True, "cpu", True, 1.0)
    assert [one["rows"] for one in cpu["buckets"]] == [1, 2, 4, 8, 16, 32]  # model.toml's cap
    assert all(one.keys() == BUCKET and one["rows_per_s"] > 0 for one in cpu["buckets"])
    assert cpu["service"]["throughput"] > 0
    assert 0 < cpu["service"]["share_of_best_bucket"] < 1
    assert report["gpu_driver"]["gpus"] == 0


def test_a_model_that_the_cpu_cannot_run_gives_one_line(tmp_path: Path) -> None:
    (models.doubling(tmp_path) / "1" / "model.onnx").write_bytes(b"xx")
    code, report, words = asked(str(tmp_path / "double"), "--no-service")
    assert (code, report) == (gpu_report.CANNOT_MEASURE, {})
    assert words.splitlines()[-1].endswith("model.onnx: is not an ONNX model: its 2 bytes contain no graph")


def test_several_models_and_other_engines_are_refused(tmp_path: Path) -> None:
    numpy_model(tmp_path)
    assert "must be the folder of a model that ONNX Runtime runs" in asked(str(tmp_path / "own"))[2]
    models.doubling(tmp_path)
    assert "contains 2 models; name one of them" in asked(str(tmp_path))[2]


def test_the_report_can_skip_the_queue_and_be_limited_to_one_provider(tmp_path: Path) -> None:
    models.doubling(tmp_path, toml='task = "tensor"\nprovider = "cuda"\nmax_batch = 2')  # overruled
    code, report, _ = asked(str(tmp_path / "double"), "--no-service", "--providers", "cpu")
    assert code == 0
    assert [*report["providers"]] == ["cpu"]
    assert report["providers"]["cpu"]["service"] is None
    assert [one["rows"] for one in report["providers"]["cpu"]["buckets"]] == [1, 2]


def test_the_measured_service_runs_the_served_version_with_a_pinned_provider(tmp_path: Path) -> None:
    from cli.gpu_report.service import _copy  # noqa: PLC0415
    from model_runtime.repository.repository import BrokenModel, list_models  # noqa: PLC0415

    toml = 'task = "tensor"\nprovider = "tensorrt" # fast\n[cuda]\ngraphs = false\n'
    folder = models.doubling(tmp_path / "models", toml=toml)
    shutil.copytree(folder / "1", folder / "2")
    (found,) = list_models(tmp_path / "models")
    assert not isinstance(found, BrokenModel)
    _copy(found, tmp_path / "copy", "cpu")
    (copied,) = list_models(tmp_path / "copy")
    assert not isinstance(copied, BrokenModel)
    assert (copied.spec.provider, copied.spec.cuda.graphs, copied.version) == ("cpu", False, "2")
    assert not (tmp_path / "copy" / "double" / "1").exists()
