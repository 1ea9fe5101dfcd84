"""Runs `jitney up` for one model and provider, and measures it with `jitney bench`."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from model_runtime.repository.repository import ModelFolder
from model_runtime.spec.model_toml import SPEC_FILE

START_TIMEOUT_S: Final = 1800.0  # TensorRT builds engines for minutes
STOP_TIMEOUT_S: Final = 30.0


class CannotServe(Exception):
    """The service did not start or could not be measured; the message is one line."""


def measure_service(
    folder: ModelFolder, provider: str, device: int, engine_cache: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Return the figures of `jitney bench`. `args` has concurrency, seconds and input. Raises CannotServe."""
    with tempfile.TemporaryDirectory(prefix="jitney-gpu-report-") as name:
        place = Path(name)
        _copy(folder, place / "models", provider)
        own = {"JITNEY_GPU_DEVICES": str(device), "JITNEY_TENSORRT_CACHE_DIR": str(engine_cache.resolve())}
        with _run_service(place, {**os.environ, **own}) as url:
            command = [*_jitney("bench"), "--json", "--url", url, "--model", folder.name, "--rounds", "1"]
            command += ["--seconds", str(args.seconds), "--concurrency", str(args.concurrency)]
            command += ["--models-dir", str(place / "none")]  # no baseline
            command += ["--input", *map(str, args.input)] if args.input else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotServe(_last_line(done.stderr))
    (row,) = json.loads(done.stdout)["service"]
    return {"concurrency": args.concurrency, "throughput": row["throughput"], "measured": row}


def _copy(folder: ModelFolder, models: Path, provider: str) -> None:
    """Copy the served version of a model, and pin the provider in its model.toml."""

    def other_versions(source: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(source) == folder.path and name.isdigit() and name != folder.version]

    shutil.copytree(folder.path, models / folder.name, ignore=other_versions)
    file = models / folder.name / SPEC_FILE
    keys, *tables = re.split(r"(?m)^(?=\[)", file.read_text("utf-8"), maxsplit=1)
    others = re.sub(r"(?m)^\s*provider\s*=.*\n?", "", keys)
    file.write_text(f'provider = "{provider}"\n{others}{"".join(tables)}', "utf-8")


@contextmanager
def _run_service(place: Path, env: dict[str, str]) -> Iterator[str]:
    """Run the service and yield its URL once it is ready. Raises CannotServe."""
    own = {
        "JITNEY_MODELS_DIR": str(place / "models"),
        "JITNEY_DATA_DIR": str(place / "data"),
        "JITNEY_PORT": "0",
        "JITNEY_HOST": "127.0.0.1",
        # Start a Redis server of its own: a measurement must not use a shared queue.
        **dict.fromkeys(("JITNEY_REDIS_URL", "REDIS_URL", "JITNEY_REDIS_URL_FILE"), ""),
    }
    log, output = place / "log", place / "out"
    with log.open("wb") as stderr, output.open("wb") as stdout:
        process = subprocess.Popen(_jitney("up"), env={**env, **own}, stdout=stdout, stderr=stderr)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (match := re.search(r"ready in .*: (http\S+)", output.read_text())):
            if process.poll() is not None or time.monotonic() > deadline or "is not served: " in log.read_text():
                raise CannotServe(f"the service did not become ready: {_last_line(log.read_text())}")
            time.sleep(0.1)
        yield match[1]
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _jitney(verb: str) -> list[str]:
    return [sys.executable, "-P", "-m", "cli.main", verb]


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no output")
