"""The cost of a small job as a ratio to a request that does nothing, in the same run.

The bare server is the same HTTP server with nothing behind it, answered by the same client, so that the ratio says the
same on a fast machine and on a slow one. Exit code 1: some ratio is above its limit, which is a third above what was
measured when it was set.
"""

import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cli.bench.load import closed_loop
from cli.bench.load.connection import Address
from cli.bench.load.service_cpu import ServiceCpu
from cli.bench.load.submit_modes import Exchange, build_submit_request, submit_and_wait
from cli.bench.load_levels import WAIT, LoadLevel
from cli.bench.statistics import CpuUsage
from tests.support import models
from tests.support.processes import program
from tests.support.service import Service
from tests.support.waiting import wait_until

ROUNDS, SECONDS = 7, 2.0
# In flight → the most of a bare request's CPU time that a job may cost: gateway, worker and queue together.
LIMITS: Final = {1: 19.0, 16: 19.0, 64: 13.0}
BODY: Final = bytes(784 * 4)

BARE: Final = """
import asyncio, socket, uvicorn
from api.asgi.protocol import GatewayProtocol

JOB = b'{"status":"succeeded","batch_size":1,"timings":{"queue":0,"decode":0,"batch":0,"infer":0,"total":0}}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(JOB)).encode())]

async def app(scope, receive, send):
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": JOB})

listening = socket.create_server(("127.0.0.1", 0))
print("port", listening.getsockname()[1], flush=True)
config = uvicorn.Config(app, http=GatewayProtocol, ws="none", lifespan="off", access_log=False, log_level="error")
with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
    runner.run(uvicorn.Server(config).serve(sockets=[listening]))
"""


@contextmanager
def run_bare_server(folder: Path) -> Iterator[tuple[Address, "subprocess.Popen[bytes]"]]:
    """A server with nothing behind it."""
    log = folder / "bare"
    with program(BARE, log) as process:
        port = wait_until(lambda: re.search(r"port (\d+)", log.read_text()), "the bare server listens")[1]
        yield Address.of(f"http://127.0.0.1:{port}"), process


def cpu_s(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> int:
    """Measure; returns the exit code."""
    ratios: dict[int, list[float]] = {size: [] for size in LIMITS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models.perceptron(folder / "models")
        with Service(folder / "models") as service, run_bare_server(folder) as (bare, process):
            address = Address.of(service.url)
            cpu = ServiceCpu(address)
            for number in range(1, ROUNDS + 1):
                for size, found in ratios.items():
                    of_bare = measure_bare_us(bare, process.pid, size)
                    parts = measure_job_us(address, cpu, size)
                    found.append(sum(parts.values()) / of_bare)
                    told = ", ".join(f"{part} {us:.0f}" for part, us in parts.items())
                    print(f"round {number}, {size:2} in flight, µs: a request {of_bare:.0f}; a job {told}", flush=True)
    medians = {size: statistics.median(found) for size, found in ratios.items()}
    for size, median in medians.items():
        spread = f"{min(ratios[size]):.1f} to {max(ratios[size]):.1f}"
        print(f"{size:2} in flight: a job costs {median:.1f} requests ({spread}); limit {LIMITS[size]:g}")
    return int(any(median > LIMITS[size] for size, median in medians.items()))


def measure_bare_us(address: Address, pid: int, size: int) -> float:
    """CPU time of a request that does nothing."""
    before = cpu_s(pid)
    answers = load(address, size)
    return (cpu_s(pid) - before) / answers * 1e6


def measure_job_us(address: Address, cpu: ServiceCpu, size: int) -> dict[str, float]:
    """CPU time of a job, by part of the service."""
    cpu.settle()
    before = cpu.read()
    load(address, size)
    spent = cpu.since(before)
    assert isinstance(spent, CpuUsage), cpu.unknown
    return {part: seconds / spent.jobs * 1e6 for part, seconds in spent.seconds.items()}


def load(address: Address, size: int) -> float:
    """Keep a number of requests in flight; return how many were answered, with those of the warm-up."""
    request = build_submit_request(address, "perceptron", "application/octet-stream", BODY)
    started = time.perf_counter()
    measured = closed_loop.measure(address, Exchange(1, [request], submit_and_wait), LoadLevel(WAIT, size), SECONDS)
    result = asyncio.run(measured)
    assert not result.failures, result.first_problem
    return result.throughput * (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
