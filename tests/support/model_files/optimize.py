"""Fixtures: the bundled digits in a repository of the test, and the command as a user gives it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import main
from tests.support.service import ROOT

Optimize = Callable[..., tuple[int, dict[str, Any]]]
SAMPLES = ROOT / "samples" / "digits"


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """A repository with digits in it, version 1."""
    shutil.copytree(ROOT / "models" / "digits", tmp_path / "models" / "digits")
    return tmp_path / "models"


@pytest.fixture
def optimize(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> Optimize:
    """Run `jitney models optimize ... --json`; return the exit code and the output."""

    def run(*argv: str | Path, name: str = "digits") -> tuple[int, dict[str, Any]]:
        code = main.main(["models", "optimize", name, "--models-dir", str(models_dir), "--json", *map(str, argv)])
        return code, json.loads(capsys.readouterr().out)

    return run


def everything(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its content, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
