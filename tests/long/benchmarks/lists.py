"""Lists of jobs by filter over 300,000 waiting jobs: the latency of each call, and what they cost submits.

A gateway process and the queue's server, without workers. Each call comes 0.15 s or so after the one before. The load
and the lists are measured in turn: slices with the lists in a loop, from a process of the lowest priority, and slices
without. Exit code 1: a call's p99 is 200 ms or more, or by their CPU time the gateway or the server could take less
than 95 % of the submits.
"""

import argparse
import asyncio
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from cli.bench.load.connection import Address, connect
from cli.bench.load.submit_modes import build_submit_request
from jobs.contract.ids import new_job_id
from jobs.contract.job import Lane, Outcome, Submission
from jobs.contract.lifecycle import State
from tests.support.gateways import GatewayProcess, Worker
from tests.support.servers import Server

TENANTS: Final = 1000  # of half of the jobs; the other half belong to one tenant
ENDED: Final = 10_000  # jobs of that tenant that did not succeed, and as many that did
RUNNING: Final = 512
LEASE_S: Final = 3600  # they run until the end
CALLERS: Final = 16
PAUSE_S: Final = 0.15  # between two calls of a caller that is in no hurry
LIMIT_MS: Final = 200.0
LEAST: Final = 0.95
CALLS: Final = (
    "/v1/jobs",
    "/v1/jobs?limit=100",
    "/v1/jobs?status=queued",
    "/v1/jobs?status=queued&limit=100&lane=bulk",
    "/v1/jobs?status=queued&model=m&version=1",
    "/v1/jobs?status=running",
    "/v1/jobs?status=failed",
    "/v1/jobs?status=canceled&limit=100",
    "/v1/jobs?code=inference_failed&model=m",
    "/v1/jobs?status=succeeded",
    "/v1/jobs?model=none",
    "/v1/jobs?metadata.order=17",
    "/v1/jobs?status=queued&metadata.order=none",
    "/v1/jobs?since=2026-01-01T00:00:00Z&lane=bulk",
    "/v1/jobs?tenant=*",
    "/v1/jobs?tenant=*&status=queued&limit=100",
    "/v1/jobs?tenant=*&status=running",
    "/v1/jobs?tenant=*&code=canceled",
    "/v1/jobs?tenant=t17&status=queued",
    "/v1/queues",
    "/v1/tenants?limit=100",
)


async def fill(worker: Worker, jobs: int) -> None:
    """Make jobs that wait, run and have ended."""
    store, dice = worker.store, random.Random(1)

    def job(tenant: str, lane: Lane) -> Submission:
        metadata = b'{"order":"%d"}' % dice.randrange(100)
        return Submission(new_job_id(0), "m", "1", "raw", b"x" * 16, tenant, lane, metadata=metadata)

    for _ in range(0, 2 * ENDED + RUNNING, 100):
        await store.submit([job("default", "interactive") for _ in range(100)])
        claimed = await worker.claim(100)
        outcomes = [
            Outcome(each.id, each.attempt, State.SUCCEEDED, b'{"y":1}', batch_size=1)
            if dice.random() < 0.5
            else Outcome(each.id, each.attempt, State.FAILED, b'{"code":"inference_failed","message":"m","status":422}')
            for each in claimed
        ]
        await store.finish("w1", outcomes)
    for first in range(0, jobs, 100):
        lanes: Sequence[Lane] = ("interactive", "bulk")
        tenants = ["default" if nth % 2 else f"t{dice.randrange(TENANTS)}" for nth in range(100)]
        await store.submit([job(tenant, lanes[(first // 100) % 2]) for tenant in tenants])
    await store.usage.flush(worker.connection)
    await worker.claim(RUNNING)


def time_calls(port: int, seconds: float, repeats: int, pause_s: float = 0.0) -> dict[str, list[float]]:
    """Call each list in turn for so many seconds, or so many times; return the ms of each call."""
    connection, took = http.client.HTTPConnection("127.0.0.1", port), dict[str, list[float]]()
    until = time.monotonic() + seconds
    for path in CALLS * repeats:
        if time.monotonic() > until:
            break
        begun = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        took.setdefault(path, []).append(1000 * (time.perf_counter() - begun))
        assert answer.status == 200, (path, body[:300])
        threading.Event().wait(pause_s)
    connection.close()
    return took


async def submit_rate(port: int, seconds: float) -> float:
    """Submit without waiting from CALLERS connections; return the jobs accepted in a second."""
    address = Address.of(f"http://127.0.0.1:{port}")
    request = build_submit_request(address, "m", "application/octet-stream", b"x" * 16, wait_s=0)
    accepted, begun = 0, time.perf_counter()

    async def call() -> None:
        nonlocal accepted
        connection = await connect(address)
        while time.perf_counter() < begun + seconds:
            response = await connection.request(request)
            assert response.status == 202, response.body
            accepted += 1

    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return accepted / (time.perf_counter() - begun)


def p99(took: Sequence[float]) -> float:
    return sorted(took)[min(len(took) - 1, int(len(took) * 0.99))]


def measure_latencies(port: int, repeats: int) -> bool:
    """Print the latency of each call; return whether all are within the limit."""
    took = time_calls(port, 3600, repeats, PAUSE_S)
    for path, ms in took.items():
        print(f"{path:48} p50 {median(ms):6.1f} ms  p99 {p99(ms):6.1f} ms  max {max(ms):6.1f} ms", flush=True)
    return all(p99(ms) < LIMIT_MS for ms in took.values())


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_submits(port: int, pids: dict[str, int], slices: int, seconds: float) -> bool:
    """Print the rate of submits without and with lists, in turn; return whether the lists cost little.

    The rate is that of a machine which others may use, too. The CPU time of a submit is the gateway's and the server's.
    """
    rates: dict[bool, list[float]] = {False: [], True: []}
    spent: dict[bool, dict[str, float]] = {has_lists: dict.fromkeys(pids, 0.0) for has_lists in (False, True)}
    beside: list[float] = []
    for nth in range(2 * slices):
        has_lists = nth % 2 == 1
        command = [sys.executable, "-m", "tests.long.benchmarks.lists", "--loop", str(port), "--seconds", str(seconds)]
        lister = subprocess.Popen(command, stdout=subprocess.PIPE) if has_lists else None
        if lister is not None and lister.stdout is not None:
            lister.stdout.readline()  # it has begun
        before = {part: cpu_s(pid) for part, pid in pids.items()}
        rates[has_lists].append(asyncio.run(submit_rate(port, seconds)))
        for part, pid in pids.items():
            spent[has_lists][part] += cpu_s(pid) - before[part]
        if lister is not None:
            beside += json.loads(lister.communicate()[0])
        print(f"{'with' if has_lists else 'without':7} lists: {rates[has_lists][-1]:7.0f} submits/s", flush=True)
    ratio = median(with_ / without for without, with_ in zip(rates[False], rates[True], strict=True))
    lists = f"{len(beside)} lists beside them: p50 {median(beside):.0f} ms, p99 {p99(beside):.0f} ms"
    print(f"submits beside lists: {ratio:.3f} of those without (median of {slices} pairs); {lists}")
    per_submit = {
        has_lists: {part: 1e6 * used / (seconds * sum(rates[has_lists])) for part, used in parts.items()}
        for has_lists, parts in spent.items()
    }
    shares = {part: per_submit[False][part] / per_submit[True][part] for part in pids}
    for part, share in shares.items():
        print(f"CPU time of a submit, {part}: {per_submit[False][part]:.0f} us without lists,", end=" ")
        print(f"{per_submit[True][part]:.0f} us with: at full load {share:.3f} of the submits")
    return min(shares.values()) >= LEAST


def loop(port: int, seconds: float) -> int:
    """List in a loop, at the lowest priority; print the ms of all calls."""
    os.nice(19)
    print("begun", flush=True)
    print(json.dumps([ms for calls in time_calls(port, seconds, 1_000_000).values() for ms in calls]))
    return 0


async def fill_queue(server: Server, gateway: GatewayProcess, jobs: int) -> None:
    worker = Worker(server, lease_s=LEASE_S)
    await worker.announce(gateway)
    begun = time.monotonic()
    await fill(worker, jobs)
    print(f"{jobs} jobs wait, after {time.monotonic() - begun:.0f} s", flush=True)
    await worker.connection.aclose()


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=60, help="calls of each list")
    parser.add_argument("--slices", type=int, default=30, help="pairs of slices without and with lists")
    parser.add_argument("--seconds", type=float, default=2, help="of each slice")
    parser.add_argument("--loop", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loop:
        return loop(args.loop, args.seconds)
    server = Server()
    try:
        with GatewayProcess(server, {"JITNEY_LEASE_S": str(LEASE_S)}) as gateway:
            asyncio.run(fill_queue(server, gateway, args.jobs))
            are_fast = measure_latencies(gateway.port, args.repeats)
            assert server.process is not None
            pids = {"gateway": gateway.process.pid, "server": server.process.pid}
            return int(not (measure_submits(gateway.port, pids, args.slices, args.seconds) and are_fast))
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())
