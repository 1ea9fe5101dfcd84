"""`jitney bulk run` as a process of its own, and its output."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import wait_until

DIGITS_MODEL = ROOT / "models" / "digits"


def start(*args: object, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> "subprocess.Popen[str]":
    """Start a run."""
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", "bulk", "run", *map(str, args)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class CompletedRun:
    """A finished run: its exit code and output."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        try:
            self.out, self.said = process.communicate(timeout=50)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.code = process.returncode

    def __repr__(self) -> str:
        return f"exit code {self.code}: {self.out}{self.said}"


def run(*args: object, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> CompletedRun:
    """Run to the end."""
    return CompletedRun(start(*args, env=env, cwd=cwd))


@contextmanager
def running(*args: object, env: Mapping[str, str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    """Keep a run going during a `with`."""
    process = start(*args, env=env)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def kill_after(results: Path, lines: int, *args: object) -> bool:
    """Run until a number of lines is written, then `kill -9`; return whether it was still running."""
    with running(*args) as process:
        wait_until(lambda: count(results) >= lines or process.poll() is not None, f"{lines} lines are written", 30)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return process.returncode == -signal.SIGKILL


def count(results: Path) -> int:
    """Count lines, the last of which may be torn."""
    return results.read_bytes().count(b"\n") if results.exists() else 0


def read_rows(results: Path) -> list[dict[str, Any]]:
    """Read results."""
    return [json.loads(line) for line in results.read_bytes().splitlines()]


def read_complete_rows(results: Path, lines: int) -> list[dict[str, Any]]:
    """Read results, and check that every line is there, once and in order."""
    found = read_rows(results)
    assert [row["line"] for row in found] == list(range(1, lines + 1))
    return found


def count_error_codes(found: list[dict[str, Any]]) -> Counter[str]:
    """Count rows by their error's code."""
    return Counter(row["error"]["code"] for row in found if row["error"])


def count_submitted(service: Service) -> int:
    """Count all jobs that a service ever created."""
    text = service.http.get("/metrics").text
    return sum(int(float(n)) for n in re.findall(r"^jitney_jobs_submitted_total\{[^}]*\} (\S+)$", text, re.MULTILINE))


def digits_table(path: Path, lines: int) -> list[str]:
    """Write a table of repeated digits, each with its own id; return the labels."""
    chosen = [DIGITS[number * 7 % len(DIGITS)] for number in range(lines)]
    path.write_text("".join(json.dumps({"id": f"n{n}", "path": str(one)}) + "\n" for n, one in enumerate(chosen)))
    return [one.name[0] for one in chosen]
