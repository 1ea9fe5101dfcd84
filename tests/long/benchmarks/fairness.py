"""The latency of a calm tenant beside one that floods, and beside one that sends its fair share.

Two models that take 32 ms for a batch of 16 (so 500 a second), behind a whole Jitney with API keys: `sharing` 16 ms a
batch and 1 ms an item; `linear` 2 ms an item, so that company gains nothing. The calm tenant sends 20 jobs a second and
waits for each; the other one keeps thousands of jobs in line (429 stops it from more), or sends 250 a second. In turn,
so that both meet the same weather. Exit code 1: with `sharing`, the median of its rounds' p99 beside the flood is more
than twice the other. With `linear` it cannot be less: a job that arrives during a full batch waits for half
of it and then runs 32 ms, beside half of the load the time of 2 or 3 items.
"""

import asyncio
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

import httpx2

from tests.support import models
from tests.support.service import ROOT, Service
from tests.support.waiting import pass_time, wait_until

ROUNDS, SECONDS, REST_S = 3, 12.0, 1.0
CALM_RATE, FAIR_RATE, FLOODERS, MANY = 20.0, 250.0, 4, 100
MOST_IN_LINE: Final = 5000
LIMIT: Final = 2.0
BODY: Final = bytes(16)
RAW: Final = {"content-type": "application/octet-stream"}
LINE: Final = b'{"model":"%s","input":{"tensors":{"x":{"datatype":"FP32","shape":[4],"data":[0,0,0,0]}}}}\n'
MODELS: Final = {"sharing": (0.016, 0.001), "linear": (0.0, 0.002)}  # seconds of a batch, and of an item
TASK: Final = """
import threading
from jitney import TensorTask

class Slow(TensorTask):
    last = None

    def postprocess(self, outputs, parameters):
        batch = outputs["y"].base
        threading.Event().wait({1} if batch is self.last else {0} + {1})
        self.last = batch
        return super().postprocess(outputs, parameters)
"""


async def calm(http: httpx2.AsyncClient, model: str, until: float) -> list[float]:
    """Send jobs at random moments, and give the ms that each took."""
    took: list[float] = []

    async def send() -> None:
        begun = time.perf_counter()
        answer = await http.post(f"/v1/jobs?model={model}", content=BODY, headers={**RAW, "prefer": "wait=30"})
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded"), answer.text
        took.append((time.perf_counter() - begun) * 1000)

    await run_at_random(send, CALM_RATE, until)
    return took


async def fair(http: httpx2.AsyncClient, model: str, until: float, seen: Counter[int]) -> None:
    """Send jobs at random moments, as many as half of the model's capacity, and wait for none."""

    async def send() -> None:
        seen[(await http.post(f"/v1/jobs?model={model}", content=BODY, headers=RAW)).status_code] += 1

    await run_at_random(send, FAIR_RATE, until)


async def flood(http: httpx2.AsyncClient, model: str, until: float, seen: Counter[int]) -> None:
    """Send more jobs than are accepted."""

    lines = LINE % model.encode() * MANY

    async def send() -> None:
        while time.perf_counter() < until:
            answer = await http.post("/v1/jobs", content=lines, headers={"content-type": "application/x-ndjson"})
            refused = answer.content.count(b'"code":"quota_exceeded"')  # read as JSON it would cost us what we measure
            seen.update({202: MANY - min(refused, MANY), 429: min(refused, MANY)})
            if answer.status_code == 429:
                assert "retry-after" in answer.headers
                await pass_time(0.2)  # far less than it was told

    await asyncio.gather(*(send() for _ in range(FLOODERS)))


async def run_at_random(act: object, rate: float, until: float) -> None:
    """Call something at a mean rate, at random moments, independent of how long a call takes."""
    chance, running = random.Random(1), set[asyncio.Task[None]]()
    due = time.perf_counter()
    while due < until:
        await pass_time(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(act())  # type: ignore[operator]
        running.add(task)
        task.add_done_callback(running.discard)
        due += chance.expovariate(rate)
    await asyncio.gather(*running)


async def measure(url: str, model: str, keys: dict[str, str]) -> dict[str, list[list[float]]]:
    """Alternate both kinds of neighbours; return the latencies of the calm tenant by round."""
    waited: dict[str, list[list[float]]] = {"fair share": [], "flood": []}
    clients = {name: client(url, key) for name, key in keys.items()}
    for number, (name, neighbour) in itertools.product(range(ROUNDS), (("fair share", fair), ("flood", flood))):
        seen: Counter[int] = Counter()
        until = time.perf_counter() + SECONDS
        took, _ = await asyncio.gather(
            calm(clients["calm"], model, until), neighbour(clients["other"], model, until, seen)
        )
        waited[name].append(took)
        figures = f"p50 {p(took, 50):.0f} ms, p99 {p(took, 99):.0f} ms of {len(took)}"
        print(f"{model}, round {number + 1}, {name}: {figures}; the other: {dict(seen)}", flush=True)
        await cancel_queued(clients["other"])
    for one in clients.values():
        await one.aclose()
    return waited


async def cancel_queued(http: httpx2.AsyncClient) -> None:
    """Cancel the queued jobs."""
    while True:
        jobs = (await http.get("/v1/jobs?limit=100")).json()["jobs"]
        waiting = [job["id"] for job in jobs if job["status"] in {"queued", "running"}]
        models_ = (await http.get("/v1/models")).json()["models"]
        if not waiting and not any(sum(model["waiting"].values()) for model in models_):
            return
        await pass_time(REST_S)


def client(url: str, key: str) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False)


def p(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def make_key(service: Service, tenant: str) -> str:
    env = {**os.environ, "JITNEY_DATA_DIR": str(service.folder / "data")}
    env.pop("JITNEY_REDIS_URL", None)
    command = [sys.executable, "-m", "cli.main", "keys", "create", "--tenant", tenant]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.strip()


def verdict(model: str, waited: dict[str, list[list[float]]]) -> float:
    """Print a model's figures; return the ratio of the p99s."""
    p99 = {name: statistics.median(p(took, 99) for took in rounds) for name, rounds in waited.items()}
    for name, rounds in waited.items():
        every = list(itertools.chain(*rounds))
        figures = f"p50 {p(every, 50):.0f} ms, p99 {p99[name]:.0f} ms, max {max(every):.0f} ms of {len(every)}"
        print(f"{model}, beside {name}: {figures}")
    ratio = p99["flood"] / p99["fair share"]
    print(
        f"{model}: p99 beside the flood is {ratio:.2f} times that beside the fair share; at most {LIMIT:g}", flush=True
    )
    return ratio


def main() -> int:
    """Measure and print; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="jit") as folder:
        for name, (of_batch, of_item) in MODELS.items():
            model = models.doubling(Path(folder), name, 'task = "slow.py:Slow"\nmax_batch = 16')
            (model / "slow.py").write_text(TASK.format(of_batch, of_item))
        with Service(Path(folder), {"JITNEY_TENANT_JOBS": str(MOST_IN_LINE)}) as service:
            keys = {name: make_key(service, name) for name in ("calm", "other")}
            header = {"authorization": f"Bearer {keys['other']}"}
            wait_until(lambda: service.http.get("/v1/jobs", headers=header).status_code == 200, "the keys are known")
            ratios = {name: verdict(name, asyncio.run(measure(service.url, name, keys))) for name in MODELS}
    return int(ratios["sharing"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
