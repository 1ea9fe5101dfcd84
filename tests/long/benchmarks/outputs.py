"""A fast model beside large outputs: 100 of 5 MB and 8 of 60 MB a round, in a queue server of 1 GB.

Exit code 1: the fast model's p99 is above three times its value alone; a lease was lost; a job ended neither with its
whole output nor refused for want of memory; a part's memory grew by more than a tenth after the second round.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
import onnx
import redis
from onnx import TensorProto, helper, numpy_helper

from tests.support import models
from tests.support.cluster.parts import resident_mib
from tests.support.service import Service
from tests.support.waiting import check_during, wait_until

BYTES_PER_VALUE: Final = 10.9  # of a random float32 in JSON
LARGE: Final = {"five": (5_000_000, 100), "sixty": (60_000_000, 8)}  # model → bytes of an output, jobs a round
PARTS: Final = {"gateway": "api", "worker": "worker", "background": "background", "queue": "server"}
READERS: Final = 4
ALONE_S: Final = 8.0  # before each round, so that both values come from the same minutes
RESULT_TTL_S: Final = 40
MOST_GROWTH, MOST_SLOWDOWN = 1.1, 3.0
REFUSED: Final = {"output_not_stored", "queue_full"}
ENV: Final = {
    "JITNEY_RESULT_TTL_S": str(RESULT_TTL_S),
    "JITNEY_LEASE_S": "5",
    "JITNEY_HEARTBEAT_S": "1",
    "JITNEY_MAX_CONCURRENT_RUNS": "2",
}


def scaled_table(models_dir: Path, name: str, values: int) -> None:
    """Lay out a model that multiplies a table of random numbers: x [N, 1] → y [N, values]."""
    table = np.random.default_rng(1).standard_normal(values, np.float32)
    ports = [helper.make_tensor_value_info(p, TensorProto.FLOAT, ["N", n]) for p, n in (("x", 1), ("y", values))]
    node = helper.make_node("Mul", ["x", "table"], ["y"])
    graph = helper.make_graph([node], name, ports[:1], ports[1:], [numpy_helper.from_array(table, "table")])
    folder = models_dir / name
    (folder / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "model.toml").write_text('task = "tensor"\nbatching = "off"\nthreads = 1\n')


def body(model: str, shape: int) -> dict[str, Any]:
    tensor = {"datatype": "FP32", "shape": [shape], "data": [1.5] * shape}
    return {"model": model, "lane": "interactive", "input": {"tensors": {"x": tensor}}}


def latencies(http: httpx2.Client, until: float, stop: "Queue[dict[str, int]] | None" = None) -> list[float]:
    """Send fast jobs one after the other until a time or a message; return the ms of each, ascending."""
    took: list[float] = []
    while time.monotonic() < until and (stop is None or stop.empty()):
        begun = time.perf_counter()
        answer = http.post("/v1/jobs", json=body("fast", 4), headers={"prefer": "wait=30"})
        assert answer.json().get("status") == "succeeded", answer.text
        took.append((time.perf_counter() - begun) * 1000)
    return sorted(took)


def p99(took: list[float]) -> float:
    return took[min(len(took) - 1, int(len(took) * 0.99))]


def run_large(url: str, result: "Queue[dict[str, int]]") -> None:
    """Submit one round's large jobs, and read every output; send how they ended.

    Callers are on other machines: here they take the CPU time that the service leaves.
    """
    os.nice(19)
    ends: Counter[str] = Counter()
    with httpx2.Client(base_url=url, timeout=120, trust_env=False) as http:

        def submit(model: str) -> tuple[str, str]:
            answer = http.post("/v1/jobs", json=body(model, 1))
            return model, answer.json()["id"] if answer.status_code == 202 else f"!{answer.json()['code']}"

        def read(model: str, job_id: str) -> str:
            if job_id.startswith("!"):
                return f"{model} {job_id[1:]}"
            while True:
                with http.stream("GET", f"/v1/jobs/{job_id}/output?wait=30") as answer:
                    if answer.status_code == 200:
                        size = sum(len(piece) for piece in answer.iter_bytes())
                        is_whole = abs(size / LARGE[model][0] - 1) < 0.05
                        return f"{model} whole" if is_whole else f"{model} has {size} bytes"
                    answer.read()
                    code = answer.json()["code"]
                if code == "no_output":
                    job = http.get(f"/v1/jobs/{job_id}").json()
                    if job["error"]:
                        return f"{model} {job['error']['code']}"
                elif code != "rate_limited":
                    return f"{model} {code}"
                threading.Event().wait(0.2)

        names = [name for name, (_, count) in LARGE.items() for _ in range(count)]
        with ThreadPoolExecutor(READERS) as pool:
            submitted = [*pool.map(submit, names)]
            ends.update(pool.map(lambda one: read(*one), submitted))
    result.put(dict(ends))


def measure_round(service: Service) -> tuple[list[float], dict[str, int]]:
    """Send fast jobs while another process has the large ones run."""
    context = multiprocessing.get_context("spawn")
    result: Queue[dict[str, int]] = context.Queue()
    process = context.Process(target=run_large, args=(service.url, result))
    process.start()
    took = latencies(service.http, time.monotonic() + 600, result)
    ends = result.get()
    process.join()
    return took, ends


def lost_leases(service: Service) -> int:
    """Count results that came too late, and jobs that were reclaimed."""
    lines = service.http.get("/metrics").text.splitlines()
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in lines
        if line.startswith(("jitney_jobs_reclaimed_total", "jitney_late_results_total"))
    )


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        models.doubling(Path(name), "fast", 'task = "tensor"\nthreads = 1')
        for large, (size, _) in LARGE.items():
            scaled_table(Path(name), large, int(size / BYTES_PER_VALUE))
        with Service(Path(name), {**ENV, "JITNEY_WORKERS": str(args.workers)}) as service:
            return run(service, args.rounds)


def run(service: Service, rounds: int) -> int:
    names = ("fast", *LARGE)
    wait_until(lambda: all(service.http.get(f"/readyz/models/{one}").status_code == 200 for one in names), "models", 60)
    (socket,) = service.folder.rglob("*.sock")
    server = redis.Redis(unix_socket_path=str(socket))
    server.config_set("maxmemory", "1gb")
    latencies(service.http, time.monotonic() + 2)
    memory: list[dict[str, float]] = []
    alone: list[float] = []
    beside: list[float] = []
    faults = 0
    for number in range(1, rounds + 1):
        alone += (took_alone := latencies(service.http, time.monotonic() + ALONE_S))
        began = time.monotonic()
        took, ends = measure_round(service)
        used = server.info("memory")["used_memory"] / 2**20
        took_s = time.monotonic() - began
        wait_until(lambda: service.http.get("/readyz").json()["output_bytes"] == 0, "outputs expire", 120)
        check_during(lambda: service.http.get("/healthz"), 3)
        memory.append({part: resident_mib(service.pid(name)) for part, name in PARTS.items()})
        sizes = ", ".join(f"{part} {mib:.0f}" for part, mib in memory[-1].items())
        print(
            f"round {number}, {took_s:.0f} s: {ends}; queue {used:.0f} MiB; fast p99 {p99(took_alone):.1f} ms alone;",
            f"beside it p50 {took[len(took) // 2]:.1f} ms,",
            end=" ",
        )
        print(f"p99 {p99(took):.1f} ms, max {took[-1]:.0f} ms of {len(took)}; after it MiB {sizes}", flush=True)
        odd = [end for end in ends if not end.endswith(" whole") and end.partition(" ")[2] not in REFUSED]
        beside += took
        faults += bool(odd)
    slowdown = p99(sorted(beside)) / p99(sorted(alone))
    print(
        f"fast p99 {p99(sorted(alone)):.1f} ms alone, {p99(sorted(beside)):.1f} ms beside: {slowdown:.2f} times",
        end="; ",
    )
    lost = lost_leases(service)
    growth = {part: memory[-1][part] / memory[min(1, len(memory) - 1)][part] for part in PARTS}
    print("leases lost:", lost, "- growth after round 2:", {part: round(ratio, 3) for part, ratio in growth.items()})
    return int(bool(faults or lost) or slowdown > MOST_SLOWDOWN or max(growth.values()) > MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
