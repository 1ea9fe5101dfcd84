"""Reads the code blocks of a page in docs/how-to, and runs them as a reader does."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.service import ROOT

DOCUMENTED_URL = "http://127.0.0.1:8000"
_COMMANDS = f"""
jitney() {{ "{sys.executable}" -m cli.main "$@"; }}
python() {{ "{sys.executable}" "$@"; }}
"""


class Page:
    """One page. `blocks(kind)` returns its code blocks of a language, in their order."""

    def __init__(self, name: str) -> None:
        self.text = (ROOT / "docs" / "how-to" / name).read_text()

    def blocks(self, kind: str) -> list[str]:
        found = re.findall(r"^```(\w*)\n(.+?)^```", self.text, re.DOTALL | re.MULTILINE)
        return [text for language, text in found if language == kind]

    def block(self, kind: str, part: str) -> str:
        """Return the only block of a language that contains `part`."""
        (block,) = [text for text in self.blocks(kind) if part in text]
        return block


def prepare_folder(folder: Path) -> Path:
    """Make a folder look like a checkout, as the pages assume; return it."""
    (folder / "samples").symlink_to(ROOT / "samples")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def run(words: list[str], folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a program in the folder and return what it prints; fails unless it exits with 0."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_shell(block: str, url: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a block of commands against the service at `url` and return what they print."""
    script = _COMMANDS + block.replace(DOCUMENTED_URL, url).replace("curl ", "curl -sS ")
    return run(["bash", "-c", script], folder, env)


def run_python(code: str, url: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run Python code against the service at `url` and return what it prints."""
    return run([sys.executable, "-c", code.replace(DOCUMENTED_URL, url)], folder, env)


@contextmanager
def running(words: list[str], folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Run a program until the end of the block; gives the file that has what it prints."""
    printed = folder / f"printed-{len([*folder.glob('printed-*')])}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    with printed.open("wb") as output:
        process = subprocess.Popen(words, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield printed
    finally:
        process.terminate()
        process.wait(timeout=15)
