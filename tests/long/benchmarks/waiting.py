"""The latency of interactive jobs while a million bulk jobs are queued (S13).

The same closed loop against two services in turn, one of which has the bulk jobs. They are of the same model, and
take their share of the slots; while the other service is measured, this one's worker stands still.
"""

import argparse
import asyncio
import base64
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import orjson

from cli.bench.load import closed_loop
from cli.bench.load.connection import Address
from cli.bench.load.submit_modes import Exchange, build_submit_request, submit_and_wait
from cli.bench.load_levels import WAIT, LoadLevel
from tests.support import models
from tests.support.service import Service

INPUTS = 256  # floats: 1 kB
A_POST = 1000


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        models.perceptron(Path(name), inputs=INPUTS)
        room = {
            "JITNEY_MAX_JOBS": str(3 * args.jobs),
            "JITNEY_MAX_INPUT_BYTES": str(1 << 40),
            "JITNEY_RESULT_TTL_S": "30",
        }
        with Service(Path(name), room) as alone, Service(Path(name), room) as filled:
            rate(alone, args.seconds), rate(filled, args.seconds)  # warm
            without, beside = [], []
            with paused_worker(filled):
                fill_queue(filled, args.jobs)
            for _ in range(args.rounds):
                with paused_worker(filled):
                    without.append(rate(alone, args.seconds))
                beside.append(rate(filled, args.seconds))
            left = waiting(filled)
    ratios = [b / a for a, b in zip(without, beside, strict=True)]
    ratio, taken = statistics.median(ratios), (args.jobs - left) / (args.rounds * args.seconds)
    print(
        f"64 in flight: {format_median(without)} without; "
        f"{format_median(beside)} with {args.jobs} to {left} bulk jobs waiting"
    )
    print(f"ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}); {taken:.0f} bulk jobs/s beside")
    return int(ratio < 0.85)


def rate(service: Service, seconds: float) -> float:
    """Return the responses a second with 64 in flight."""
    address = Address.of(service.url)
    exchange = Exchange(
        1, [build_submit_request(address, "perceptron", "application/octet-stream", bytes(4 * INPUTS))], submit_and_wait
    )
    result = asyncio.run(closed_loop.measure(address, exchange, LoadLevel(WAIT, 64), seconds))
    assert not result.failures, result.first_problem
    return result.throughput


@contextmanager
def paused_worker(service: Service) -> Iterator[None]:
    """Freeze its worker meanwhile."""
    worker = service.pid("worker")
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def fill_queue(service: Service, jobs: int) -> None:
    """Queue a number of bulk jobs."""
    tensor = {"datatype": "FP32", "shape": [INPUTS], "b64": base64.b64encode(bytes(4 * INPUTS)).decode()}
    line = orjson.dumps({"input": {"tensors": {"x": tensor}}}) + b"\n"
    query, headers = {"model": "perceptron", "lane": "bulk"}, {"content-type": "application/x-ndjson"}
    with httpx2.Client(base_url=service.url, trust_env=False, timeout=60) as http:
        for at in range(0, jobs, A_POST):
            body = line * min(A_POST, jobs - at)
            answer = http.post("/v1/jobs", params=query, content=body, headers=headers)
            assert answer.status_code == 202, answer.text[:300]


def waiting(service: Service) -> int:
    """Return the number of queued jobs from the service."""
    with httpx2.Client(base_url=service.url, trust_env=False, timeout=60) as http:
        lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith("jitney_waiting_jobs{")]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))


def format_median(found: list[float]) -> str:
    """A median and its range."""
    return f"{statistics.median(found):.0f}/s ({min(found):.0f} to {max(found):.0f})"


if __name__ == "__main__":
    sys.exit(main())
