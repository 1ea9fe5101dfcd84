"""docs/how-to/optimize-a-model.md: its example is executed, and its table lists every option."""

import re
import shutil
from pathlib import Path

import pytest

from cli import main
from cli.models.optimizing.command import _parser
from tests.support.service import ROOT

TEXT = (ROOT / "docs" / "how-to" / "optimize-a-model.md").read_text()


def without_numbers(said: str, folder: str = "") -> str:
    """Keep what is the same on every machine."""
    said = re.sub(r"on .+? \(ONNX", "on a CPU (ONNX", said.replace(folder, "") if folder else said)
    said = re.sub(r"; it is SLOWER here: .*", "", said)
    said = re.sub(r"weights have 7 bits: 8 would overflow on this CPU.*", "", said)  # x86 without VNNI
    return re.sub(r"\s+", " ", re.sub(r"[\d.]+(e-\d+)?", "#", said))


def test_the_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ((command, said),) = re.findall(r"```\n\$ jitney (models optimize .+)\n((?:.+\n)+?)```", TEXT)
    shutil.copytree(ROOT / "models", tmp_path / "models")
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    assert main.main([*command.replace("--seconds 5", "--seconds 0.2").split(), "--threads", "1"]) == 0
    assert without_numbers(capsys.readouterr().out, f"{tmp_path}/") == without_numbers(said)


def test_every_option_is_in_the_table() -> None:
    table = "\n".join(line for line in TEXT.splitlines() if line.startswith("|"))
    options = {name for action in _parser()._actions for name in action.option_strings if name.startswith("--")}
    assert {name for name in options if f"`{name}" not in table} == {"--help"}
