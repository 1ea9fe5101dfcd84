"""The examples of docs/how-to/check-a-model.md, executed: the printed output is the documented one."""

import re
import shutil
from pathlib import Path

import pytest

from cli import main
from tests.support.model_files.cases import COUPLED
from tests.support.service import ROOT

TEXT = (ROOT / "docs" / "how-to" / "check-a-model.md").read_text()


def example(verb: str) -> tuple[list[str], str]:
    """Arguments and output of the verb's example."""
    ((command, said),) = re.findall(rf"```\n\$ jitney (models {verb} .+)\n((?:.+\n)+?)```", TEXT)
    return command.split(), said


def test_the_output_of_the_doctor(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(shared_data / "models" / "squeezenet1.1_fp16.onnx", tmp_path)
    argv, said = example("doctor")
    assert main.main(argv) == 1
    assert capsys.readouterr().out == said


def test_the_output_of_a_failing_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    COUPLED["a mean over the batch"][1](tmp_path / "models" / "mine" / "2" / "model.onnx", "N")
    (tmp_path / "models" / "mine" / "model.toml").write_text('task = "tensor"')
    argv, said = example("check")
    assert main.main([*argv, "--provider", "cpu"]) == 1
    assert capsys.readouterr().out.startswith(said.removesuffix("  …\n"))
