"""The tutorial docs/tutorial/first-model.md, executed from the second step to the last."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until
from tests.system.docs.test_readme import steady

PAGE = (ROOT / "docs" / "tutorial" / "first-model.md").read_text()
BLOCKS = re.findall(r"```(sh|python|json|text)\n(.+?)\n```", PAGE, re.DOTALL)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service of a folder like a checkout: samples, models, and the commands in .venv/bin."""
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    shutil.copytree(ROOT / "models" / "digits", tmp_path / "models" / "digits")
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, words in {"python": "", "jitney": " -m cli.main"}.items():
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable}{words} "$@"\n')
        (commands / name).chmod(0o755)
    with Service(tmp_path / "models", {"JITNEY_MODELS_POLL_S": "0.2"}) as running:
        yield running


@pytest.mark.timeout(120)
def test_every_block_of_the_tutorial_gives_what_it_shows(service: Service, tmp_path: Path) -> None:
    assert BLOCKS[0][1].splitlines()[1] == "make run"  # tests/system/docs/test_readme.py runs it
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JITNEY_URL": service.url}
    ran = 0
    for (kind, block), (after, shown) in zip(BLOCKS[1:], [*BLOCKS[2:], ("", "")], strict=True):
        if kind == "python":
            (tmp_path / "train.py").write_text(block)
        if kind != "sh":
            continue
        script = block.replace("http://127.0.0.1:8000", service.url).replace("curl ", "curl -sS ")
        script = script.replace("jitney bench", f"jitney bench --url {service.url}")
        expected = comparable(shown) if after in {"json", "text"} else None

        def gives(script: str = script, expected: object = expected) -> bool:
            done = subprocess.run(
                ["bash", "-ec", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
            )
            return done.returncode == 0 and (expected is None or comparable(done.stdout) == expected)

        wait_until(gives, f"{script} gives {expected}", 40)
        ran += 1
    assert ran == 11


def comparable(output: str) -> object:
    """Give a JSON answer without what differs between runs; words of a text, without the name of the processor."""
    if output.startswith("{"):
        return steady(json.loads(output))
    return re.sub(r" on .+, \d threads?", "", output).split()
