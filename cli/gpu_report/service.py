"""A whole Jitney for one model and one provider, started for a measurement by `jitney bench`, and stopped after it."""

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

START_TIMEOUT_S: Final = 1800.0  # TensorRT builds for minutes
STOP_TIMEOUT_S: Final = 30.0


class CannotServe(Exception):
    """The service did not start, or was not measured. One line."""


def measure_service(
    folder: ModelFolder, provider: str, device: int, engine_cache: Path, asked: argparse.Namespace
) -> dict[str, Any]:
    """What `jitney bench` finds; raises CannotServe. `asked`: concurrency, seconds, input."""
    with tempfile.TemporaryDirectory(prefix="jitney-gpu-report-") as name:
        place = Path(name)
        _copy(folder, place / "models", provider)
        env = {
            **os.environ,
            "JITNEY_GPU_DEVICES": str(device),
            "JITNEY_TENSORRT_CACHE_DIR": str(engine_cache.resolve()),
        }
        with _run_service(place, env) as url:
            command = [*_jitney("bench"), "--json", "--url", url, "--model", folder.name, "--rounds", "1"]
            command += ["--models-dir", str(place / "none"), "--seconds", str(asked.seconds)]  # the raw side is ours
            command += ["--concurrency", str(asked.concurrency)]
            command += ["--input", *map(str, asked.input)] if asked.input else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotServe(_last_line(done.stderr))
    (row,) = json.loads(done.stdout)["service"]
    return {"concurrency": asked.concurrency, "throughput": row["throughput"], "measured": row}


def _copy(folder: ModelFolder, models: Path, provider: str) -> None:
    """The served version alone, with the provider pinned."""
    shutil.copytree(
        folder.path,
        models / folder.name,
        ignore=lambda where, names: [
            name for name in names if Path(where) == folder.path and name.isdigit() and name != folder.version
        ],
    )
    file = models / folder.name / SPEC_FILE
    keys, *tables = re.split(r"(?m)^(?=\[)", file.read_text("utf-8"), maxsplit=1)
    others = re.sub(r"(?m)^\s*provider\s*=.*\n?", "", keys)
    file.write_text(f'provider = "{provider}"\n{others}{"".join(tables)}', "utf-8")


@contextmanager
def _run_service(place: Path, env: dict[str, str]) -> Iterator[str]:
    """Gives its address, once it is ready; raises CannotServe."""
    mine = {
        "JITNEY_MODELS_DIR": str(place / "models"),
        "JITNEY_DATA_DIR": str(place / "data"),
        "JITNEY_PORT": "0",
        "JITNEY_HOST": "127.0.0.1",
    }
    mine |= {
        "JITNEY_REDIS_URL": "",
        "REDIS_URL": "",
        "JITNEY_REDIS_URL_FILE": "",
    }  # a measurement never uses a queue that others use
    log = place / "log"
    with log.open("wb") as out, (place / "out").open("wb") as said:
        process = subprocess.Popen(_jitney("up"), env={**env, **mine}, stdout=said, stderr=out)
    try:
        until = time.monotonic() + START_TIMEOUT_S
        while not (found := re.search(r"ready in .*: (http\S+)", (place / "out").read_text())):
            if process.poll() is not None or time.monotonic() > until or "is not served: " in log.read_text():
                raise CannotServe(f"the service did not get ready: {_last_line(log.read_text())}")
            time.sleep(0.1)
        yield found[1]
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
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
