"""The latency of a 2 ms model beside a 2 s model: with one worker, two concurrent runs, and two workers.

The fast model's client sends one job after the other. The slow model always has jobs queued. Each arrangement is
measured without and with the slow model, in one service. Exit code 1: with two concurrent runs or two workers the fast
model's p99 is above 20 ms, or with one worker above one slow run; or one of the models gets nothing.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import httpx2

from tests.support import models
from tests.support.service import Service
from tests.support.waiting import wait_until

FAST_S, SLOW_S = 0.002, 2.0
LIMIT_MS: Final = 20.0
ENGINE: Final = """
import threading
from jitney import TensorSpec

class Wait:
    provider, device, runtime, batchable = "cpu", "patience", "1", {1}

    def __init__(self, version, spec, gpu):
        self.inputs, self.outputs = [TensorSpec("x", "FP32", (4,))], [TensorSpec("y", "FP32", (4,))]

    def run(self, arrays, stop):
        x = arrays["x"]
        if x.any():
            threading.Event().wait({0})
        return {{"y": x + x}}
"""
ARRANGEMENTS: Final = {
    "one worker": {},
    "two concurrent runs": {"JITNEY_MAX_CONCURRENT_RUNS": "2"},
    "two workers": {"JITNEY_WORKERS": "2"},
    "two workers, not separate": {"JITNEY_WORKERS": "2", "JITNEY_SEPARATE_LONG_RUNS": "false"},
}


def body(model: str) -> dict[str, object]:
    return {"model": model, "input": {"tensors": {"x": {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}}}}


def latencies(http: httpx2.Client, seconds: float) -> list[float]:
    """Send fast jobs one after the other; return the ms of each, ascending."""
    took, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.perf_counter()
        answer = http.post("/v1/jobs", json=body("fast"), headers={"prefer": "wait=30"})
        assert answer.json()["status"] == "succeeded", answer.text
        took.append((time.perf_counter() - begun) * 1000)
    return sorted(took)


def p99(took: list[float]) -> float:
    return took[min(len(took) - 1, int(len(took) * 0.99))]


def measure(folder: Path, name: str, env: dict[str, str], seconds: float) -> bool:
    """Measure one arrangement; return whether it is within the limits."""
    with Service(folder, {**env, "JITNEY_HEARTBEAT_S": "1"}) as service:
        http = service.http
        alone = latencies(http, seconds / 3)
        wait_until(lambda: http.get("/readyz/models/slow").status_code == 200, "the slow model")
        for _ in range(int(seconds)):
            http.post("/v1/jobs", json=body("slow"))
        until = time.monotonic() + 3 * SLOW_S + 3  # each kind has run, and workers have agreed who runs what
        while time.monotonic() < until:
            latencies(http, 0.5)
        before = http.get("/v1/jobs?limit=100").text.count('"succeeded"')
        beside = latencies(http, seconds)
        ended = sum(one["status"] == "succeeded" for one in slow_jobs(http))
        middle, late = beside[len(beside) // 2], sum(ms > SLOW_S * 250 for ms in beside)
        print(f"{name}: fast alone p50 {alone[len(alone) // 2]:.1f} ms, p99 {p99(alone):.1f} ms;", end=" ")
        print(f"beside the slow one p50 {middle:.1f} ms, p99 {p99(beside):.1f} ms, max {beside[-1]:.1f} ms", end=" ")
        print(f"of {len(beside)}, {late} above {SLOW_S * 250:.0f} ms; slow jobs done: {ended}", flush=True)
        assert before or ended
        most = LIMIT_MS if name in {"two concurrent runs", "two workers"} else SLOW_S * 1000 + 200
        return p99(beside) <= most and ended >= 2


def slow_jobs(http: httpx2.Client) -> list[dict[str, str]]:
    jobs: list[dict[str, str]] = []
    cursor = ""
    for _ in range(200):
        page = http.get(f"/v1/jobs?limit=100{cursor}").json()
        jobs += [job for job in page["jobs"] if job["model"] == "slow"]
        if not page.get("next_cursor"):
            break
        cursor = f"&cursor={page['next_cursor']}"
    return jobs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for model, seconds, batchable in (("fast", FAST_S, True), ("slow", SLOW_S, False)):
            folder = models.doubling(Path(name), model, 'task = "tensor"\nengine = "wait.py:Wait"')
            (folder / "wait.py").write_text(ENGINE.format(seconds, batchable))
        results = [measure(Path(name), *one, options.seconds) for one in ARRANGEMENTS.items()]
        return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
