"""Serves models as converters write them, and compares each answer with what the library itself predicts.

Each row is a job. A label must be equal, a probability within 1e-5, a value within 1e-5 of the
largest. Then 64 jobs are in flight for two seconds. Prints a line for each model. Exit code 1: an answer differs, or
the mean batch is 8 or less.

`--python`: an interpreter with scikit-learn, skl2onnx, onnxmltools, lightgbm, xgboost and pandas.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from cli.bench.load import closed_loop
from cli.bench.load.connection import Address
from cli.bench.load.submit_modes import Exchange, build_submit_request, submit_and_wait
from cli.bench.load_levels import WAIT, LoadLevel
from tests.support.service import ROOT, Service
from tests.support.waiting import wait_until

IN_FLIGHT, SECONDS = 64, 2.0
TOLERANCE: Final = 1e-5
LEAST_MEAN_BATCH: Final = 8.0


def check(service: Service, name: str, expected: dict[str, Any]) -> bool:
    """Send each row of a model and compare the answers, then measure; prints a line, returns whether all is right."""
    jobs = [{"model": name, "input": {"row": row}} for row in expected["rows"]]
    answered = service.http.post("/v1/jobs", json=jobs, headers={"prefer": "wait=30"}).json()["jobs"]
    wrong = [
        at
        for at, job in enumerate(answered)
        if job["status"] != "succeeded" or not is_right(job["output"], expected, at)
    ]
    address = Address.of(service.url)
    requests = [build_submit_request(address, "", "application/json", json.dumps(job).encode()) for job in jobs]
    load = LoadLevel(WAIT, IN_FLIGHT)
    measured = asyncio.run(closed_loop.measure(address, Exchange(1, requests, submit_and_wait), load, SECONDS))
    mean = measured.answers / measured.batches
    figures = f"mean batch {mean:.1f}, {measured.throughput:.0f} jobs/s, {sum(measured.failures.values())} failed"
    print(f"{name}: {len(wrong)} of {len(jobs)} wrong; {figures}; {answered[0]['output']}", flush=True)
    return not wrong and not measured.failures and mean > LEAST_MEAN_BATCH


def is_right(output: dict[str, Any], expected: dict[str, Any], at: int) -> bool:
    """Return whether an output is that of row `at`."""
    if "values" in expected:
        largest = max(map(abs, expected["values"]))
        return bool(abs(output["value"] - expected["values"][at]) <= TOLERANCE * largest)
    numbers = [output["probabilities"][label] for label in expected["classes"]]
    is_near = np.allclose(numbers, expected["probabilities"][at], rtol=0, atol=TOLERANCE)
    return bool(output["label"] == expected["labels"][at] and is_near)


def main() -> int:
    """Write, serve and check all models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="interpreter that has the libraries and their converters")
    python = parser.parse_args().python
    with tempfile.TemporaryDirectory(prefix="jit") as name:
        folder = Path(name)
        script = ROOT / "tests" / "long" / "converters" / "write_models.py"
        subprocess.run([python, str(script), str(folder)], check=True)
        files = sorted(folder.glob("*.json"))
        with Service(folder) as service:
            wait_until(lambda: len(service.http.get("/v1/models").json()["models"]) == len(files), "all are served", 60)
            results = [check(service, file.stem, json.loads(file.read_text())) for file in files]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
