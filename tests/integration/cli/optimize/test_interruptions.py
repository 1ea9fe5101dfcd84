"""The repository gets a whole version or nothing; hidden files remain only after kill -9."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.models.optimizing import publish_version
from model_runtime.repository.repository import ModelFolder, list_models
from model_runtime.spec.model_toml import ModelError
from tests.support.model_files.optimize import SAMPLES, everything
from tests.support.service import ROOT
from tests.support.waiting import wait_until

ARGV = ["--int8", "--calibrate", str(SAMPLES), "--seconds", "60"]


def start(models_dir: Path, *prefix: str) -> subprocess.Popen[bytes]:
    command = [*prefix, sys.executable, "-m", "cli.main", "models", "optimize", "digits", *ARGV]
    return subprocess.Popen([*command, "--models-dir", str(models_dir)], cwd=ROOT, stderr=subprocess.PIPE)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing(models_dir: Path, number: signal.Signals, code: int) -> None:
    before = everything(models_dir)
    process = start(models_dir)
    try:
        wait_until(lambda: [*models_dir.glob("digits/.optimizing-*/version/model.onnx")], "the file is made", 30)
        process.send_signal(number)
        assert process.wait(20) == code
    finally:
        process.kill()
        process.communicate()
    assert everything(models_dir) == before
    assert {path.name for path in (models_dir / "digits").iterdir()} == {
        "1",
        "accuracy.json",
        "labels.txt",
        "model.toml",
    }


def test_a_killed_run_leaves_only_hidden_files(models_dir: Path) -> None:
    process = start(models_dir)
    try:
        wait_until(lambda: [*models_dir.glob("digits/.optimizing-*/version/model.onnx")], "the file is made", 30)
    finally:
        process.kill()
        process.communicate()
    [found] = list_models(models_dir)
    assert isinstance(found, ModelFolder)
    assert found.version == "1"
    assert publish_version.next_version_number(models_dir / "digits") == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="no shell to set a limit with")
@pytest.mark.parametrize("kilobytes", [100, 243])
def test_a_full_disk_is_reported_and_nothing_is_left(models_dir: Path, kilobytes: int) -> None:
    """A file that may not grow beyond this fails as a full disk does."""
    before = everything(models_dir)
    process = start(models_dir, "bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "limited")
    _, said = process.communicate(timeout=40)
    assert process.returncode == 1
    assert said.decode() == (
        f"jitney models: {models_dir}/digits: File too large: no version was written; "
        "allowed: a writable folder with free space\n"
    )
    assert everything(models_dir) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_folder_that_cannot_be_written_to_is_named(models_dir: Path) -> None:
    (models_dir / "digits").chmod(0o555)
    try:
        with (
            pytest.raises(ModelError, match="Permission denied: no version was written"),
            publish_version.staging_folder(models_dir / "digits"),
        ):
            pass
    finally:
        (models_dir / "digits").chmod(0o755)


def test_a_version_created_meanwhile_is_not_overwritten(tmp_path: Path, models_dir: Path) -> None:
    folder = models_dir / "digits"
    (folder / "7").mkdir()  # half a version, of somebody who is copying
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.onnx").write_text("new")
    assert publish_version.publish(made, folder) == folder / "8"
    assert (folder / "8" / "model.onnx").read_text() == "new"
    assert [*(folder / "7").iterdir()] == []
