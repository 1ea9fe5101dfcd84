"""The latency of a calm tenant beside 30 abusive tenants, and beside 30 normal ones.

A whole Jitney with API keys. The calm tenant sends 10 pictures a second and waits for each answer. Beside it 30 tenants
make one act a second each: three of them each kind that `abusers.KINDS` lists; or, in turn with that, as many valid
requests. Prints the median of the rounds' p99 beside both. Exit code 1: the one is more than 3 times the other, or
something of the calm tenant was refused, failed, or lost its connection.

`--memory`: five identical rounds of all abuse, and the resident memory of each part after each of them has settled.
Exit code 1: some part has grown by more than 10 % from the second to the fifth, or was replaced by another process.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import httpx2
import numpy as np
import onnx
import redis
from onnx import TensorProto, helper, numpy_helper

from jobs.redis_client.client import RedisClient
from jobs.tenants import api_keys
from tests.long.abuse import abusers
from tests.long.abuse.abusers import Target
from tests.long.benchmarks.fairness import client, p, run_at_random
from tests.support.cluster.parts import resident_mib
from tests.support.service import DIGITS, ROOT, Service
from tests.support.waiting import pass_time, wait_until

TENANTS: Final = 30
RATE: Final = 1.0  # acts of each tenant in a second
CALM_RATE: Final = 10.0
ROUNDS, SECONDS = 5, 16.0
MEMORY_ROUNDS, MEMORY_SECONDS = 5, 25.0
LIMIT: Final = 3.0
GROWTH: Final = 1.10
SETTLED_S: Final = 90.0
PARTS: Final = {"gateway": "api", "worker": "worker", "background process": "background", "queue's server": "server"}
NEIGHBOUR_KINDS: Final = (("valid requests", False), ("abuse", True))
# Times are short, so that a round leaves little to the next.
ENV: Final = {
    "JITNEY_LEASE_S": "10",
    "JITNEY_RESULT_TTL_S": "5",
    "JITNEY_IDEMPOTENCY_TTL_S": "10",
    "JITNEY_DEAD_LETTER_TTL_S": "5",
    "JITNEY_TENANT_JOBS": "3000",
    "JITNEY_WEBHOOK_ALLOW_CIDRS": "127.0.0.0/8",
    "JITNEY_WEBHOOK_SCHEDULE": "0,1",
    "JITNEY_WEBHOOK_TIMEOUT_S": "3",
    "JITNEY_WEBHOOK_SLOW_S": "2",
    "JITNEY_WEBHOOK_LEASE_S": "6",
    "JITNEY_WEBHOOK_LOG_TTL_S": "10",
}
# Quotas are small where memory is watched, so that all that may be kept is kept from the second round on.
FULL: Final = {
    "JITNEY_BULK_FILES": "10",
    "JITNEY_BULK_BATCHES": "5",
    "JITNEY_WEBHOOK_LOG": "50",
    "JITNEY_WEBHOOK_TENANT_BACKLOG": "50",
    "JITNEY_JOB_LIST_LIMIT": "1500",
}


class Receiver:
    """Webhook receivers: one answers at once, one accepts connections and sends nothing."""

    def __init__(self) -> None:
        self.came: dict[str, float] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                receiver.came[self.path] = time.perf_counter()
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Send no response."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._silent = socket.create_server(("0.0.0.0", 0), backlog=1024)
        self.silent_port = int(self._silent.getsockname()[1])
        self._held: list[socket.socket] = []
        for run in (self._server.serve_forever, self._accept):
            threading.Thread(target=run, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._held.append(self._silent.accept()[0])
                if len(self._held) > 1000:
                    self._held.pop(0).close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._silent.close()
        for one in self._held:
            one.close()


class CalmTenant:
    """The measured tenant, and the result of each of its requests."""

    def __init__(self, service: Service, key: str, receiver: Receiver) -> None:
        self._service, self._key, self._receiver = service, key, receiver
        self.took: list[float] = []
        self.told: list[float] = []
        self.wrong: Counter[str] = Counter()
        self._sent = itertools.count()

    async def send_for(self, seconds: float) -> None:
        async with client(self._service.url, self._key) as http:
            await run_at_random(lambda: self._ride(http), CALM_RATE, time.perf_counter() + seconds)

    async def _ride(self, http: httpx2.AsyncClient) -> None:
        """Send a picture, every tenth with a webhook, and wait for its answer."""
        nth = next(self._sent)
        path = f"/{self._key[3:9]}-{nth}"
        query = {"model": "digits"}
        if nth % 10 == 0:
            query["webhook"] = f"http://127.0.0.1:{self._receiver.port}{path}"
        begun = time.perf_counter()
        try:
            headers = {"content-type": "image/png", "prefer": "wait=30"}
            image = DIGITS[nth % len(DIGITS)].read_bytes()
            answer = await http.post("/v1/jobs", params=query, content=image, headers=headers)
        except httpx2.HTTPError as error:
            self.wrong[type(error).__name__] += 1
            self.took.append((time.perf_counter() - begun) * 1000)
            return
        ended = time.perf_counter()
        self.took.append((ended - begun) * 1000)
        state = answer.json().get("status") if answer.status_code == 200 else answer.json().get("code")
        if (answer.status_code, state) != (200, "succeeded"):
            self.wrong[f"{answer.status_code} {state}"] += 1
        elif nth % 10 == 0:
            while path not in self._receiver.came and time.perf_counter() < ended + 30:
                await pass_time(0.005)
            self.told.append(max(0.0, self._receiver.came.get(path, ended + 30) - ended) * 1000)


def make_output_model(models_dir: Path) -> None:
    """Lay out a model whose output is as large as its input says: n int64 [1, 1] → y float32 [1, n]."""
    nodes = [
        helper.make_node("Reshape", ["n", "one"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "zero"], ["y"]),
    ]
    ports = [
        helper.make_tensor_value_info("n", TensorProto.INT64, [1, 1]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "size_of_y"]),
    ]
    constants = [numpy_helper.from_array(np.array([n], np.int64), name) for n, name in ((1, "one"), (0, "zero"))]
    graph = helper.make_graph(nodes, "grow", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (models_dir / "grow" / "1").mkdir(parents=True)
    onnx.save(model, models_dir / "grow" / "1" / "model.onnx")
    (models_dir / "grow" / "model.toml").write_text('task = "tensor"\n')


def neighbours(
    target: Target,
    keys: list[str],
    seconds: float,
    told: "multiprocessing.SimpleQueue[dict[str, int]]",
    *,
    abuses: bool,
) -> None:
    """Run the 30 tenants; in a process of its own."""
    told.put(dict(asyncio.run(abusers.run_all(target, keys, RATE, seconds, abuses=abuses))))


class Neighbours:
    """The 30 tenants that abuse, and 30 others that do not."""

    def __init__(self, service: Service, receiver: Receiver, keys: list[str]) -> None:
        self._target = Target(int(service.port), DIGITS[0].read_bytes(), receiver.silent_port, receiver.port)
        self._keys = {True: keys[:TENANTS], False: keys[TENANTS:]}

    def prepare(self) -> None:
        """Fill the lists of those that list over expired jobs."""
        asyncio.run(abusers.fill_lists(self._target, self._keys[True]))

    async def act(self, seconds: float, *, abuses: bool) -> dict[str, int]:
        """Act for a number of seconds; return the responses."""
        context = multiprocessing.get_context("spawn")
        told = context.SimpleQueue()
        process = context.Process(
            target=neighbours,
            args=(self._target, self._keys[abuses], seconds, told),
            kwargs={"abuses": abuses},
            daemon=True,
        )
        process.start()
        seen: dict[str, int] = await asyncio.to_thread(told.get)
        await asyncio.to_thread(process.join, 10)
        return seen


def settle(service: Service, keys: list[str]) -> float:
    """Wait until all work is done; return the seconds, or SETTLED_S where it does not end."""
    begun = time.perf_counter()

    def is_quiet() -> bool:
        try:
            listed = service.http.get("/v1/models", headers={"authorization": f"Bearer {keys[0]}"}).json()["models"]
            with redis.Redis.from_url(queue_url(service)) as queue:
                is_open = any(queue.zcard(name) for name in ("jitney:{s00}:timers", "jitney:{s00}:bulk_due"))
        except (httpx2.HTTPError, redis.RedisError, KeyError, ValueError):
            return False
        return not is_open and not any(sum(model["waiting"].values()) for model in listed)

    with suppress(AssertionError):
        wait_until(is_quiet, "nothing is left to do", SETTLED_S)
    return time.perf_counter() - begun


async def make_keys(service: Service, tenants: list[str]) -> list[str]:
    """Create a key for each tenant, faster than with one command each."""
    connection = RedisClient(queue_url(service), 5)
    try:
        return [(await api_keys.create_key(connection, tenant, "caller"))[1] for tenant in tenants]
    finally:
        await connection.aclose()


def queue_url(service: Service) -> str:
    """Return the address of the queue server."""
    command = ["ps", "-ww", "-o", "args=", "-p", str(service.pid("server"))]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    path = next((word.removeprefix("unixsocket:") for word in words if word.startswith("unixsocket:")), "")
    path = path or words[words.index("--unixsocket") + 1]
    return f"unix://{path}"


async def measure(service: Service, neighbours_: Neighbours, calm_key: str, receiver: Receiver, keys: list[str]) -> int:
    """Alternate both kinds of neighbours; return the exit code."""
    waited: dict[str, list[list[float]]] = {name: [] for name, _ in NEIGHBOUR_KINDS}
    told: dict[str, list[float]] = {name: [] for name, _ in NEIGHBOUR_KINDS}
    wrong: Counter[str] = Counter()
    for number, (name, abuses) in itertools.product(range(1, ROUNDS + 1), NEIGHBOUR_KINDS):
        if abuses:
            await asyncio.to_thread(neighbours_.prepare)
            await asyncio.to_thread(settle, service, keys)
        await pass_time(float(ENV["JITNEY_RESULT_TTL_S"]) + 1)
        calm = CalmTenant(service, calm_key, receiver)
        seen, _ = await asyncio.gather(neighbours_.act(SECONDS, abuses=abuses), calm.send_for(SECONDS))
        rest_s = await asyncio.to_thread(settle, service, keys)
        waited[name].append(calm.took)
        told[name] += calm.told
        wrong.update({f"beside {name}: {what}": count for what, count in calm.wrong.items()})
        figures = f"p50 {p(calm.took, 50):.0f} ms, p99 {p(calm.took, 99):.0f} ms, max {max(calm.took):.0f} ms"
        print(f"round {number}, beside {name}: {figures} of {len(calm.took)}; not right: {dict(calm.wrong)}")
        print(f"  its webhooks after at most {max(calm.told, default=0):.0f} ms; quiet again after {rest_s:.0f} s")
        print(f"  the others were answered: {dict(sorted(seen.items()))}", flush=True)
    return verdict(waited, told, wrong)


def verdict(waited: dict[str, list[list[float]]], told: dict[str, list[float]], wrong: Counter[str]) -> int:
    """Print the figures; gives the exit code."""
    p99 = {name: statistics.median(p(took, 99) for took in rounds) for name, rounds in waited.items()}
    for name, rounds in waited.items():
        every = list(itertools.chain(*rounds))
        webhooks = (
            f"its webhooks {statistics.median(told[name] or [0]):.0f} ms, max {max(told[name], default=0):.0f} ms"
        )
        print(f"beside {name}: p50 {p(every, 50):.0f} ms, p99 {p99[name]:.0f} ms, max {max(every):.0f} ms; {webhooks}")
    ratio = p99["abuse"] / p99["valid requests"]
    print(f"the calm tenant's p99 beside abuse is {ratio:.2f} times that beside valid requests; at most {LIMIT:g}")
    print(f"of its requests were refused, failed or lost: {dict(wrong) or 'none'}", flush=True)
    return int(ratio > LIMIT or bool(wrong))


async def watch_memory(service: Service, neighbours_: Neighbours, keys: list[str]) -> int:
    """Make identical rounds of all abuse; gives the exit code."""
    pids = {name: service.pid(part) for name, part in PARTS.items()}
    found: list[dict[str, float]] = []
    for number in range(1, MEMORY_ROUNDS + 1):
        await asyncio.to_thread(neighbours_.prepare)
        await asyncio.to_thread(settle, service, keys)
        await pass_time(float(ENV["JITNEY_RESULT_TTL_S"]) + 1)
        seen = await neighbours_.act(MEMORY_SECONDS, abuses=True)
        rest_s = await asyncio.to_thread(settle, service, keys)
        await pass_time(20)  # results, letters and logs of deliveries expire
        held = {name: resident_mib(pid) for name, pid in pids.items()}
        with redis.Redis.from_url(queue_url(service)) as queue:
            data_mib = queue.info("memory")["used_memory"] / (1 << 20)
        found.append(held)
        figures = ", ".join(f"{name} {mib:.1f} MiB" for name, mib in held.items()) + f" ({data_mib:.1f} MiB of data)"
        print(f"round {number}: {figures}; quiet again after {rest_s:.0f} s; {dict(sorted(seen.items()))}", flush=True)
    grown = {name: found[-1][name] / found[1][name] if found[1][name] else float("inf") for name in found[-1]}
    print("growth from the second to the last round:", ", ".join(f"{n} {ratio:.3f}" for n, ratio in grown.items()))
    replaced = [name for name, part in PARTS.items() if service.pid(part) != pids[name]]
    print(f"parts that died and were replaced: {replaced or 'none'}", flush=True)
    return int(bool(replaced) or max(grown.values()) > GROWTH)


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true", help="measure memory over rounds of abuse, not waiting")
    args = parser.parse_args()
    receiver = Receiver()
    with tempfile.TemporaryDirectory(prefix="jit") as folder:
        (Path(folder) / "digits").symlink_to(ROOT / "models" / "digits")
        make_output_model(Path(folder))
        with Service(Path(folder), ENV | FULL if args.memory else ENV) as service:
            names = ["calm", *(f"{kind}{n:02d}" for kind in ("abuser", "other") for n in range(TENANTS))]
            calm_key, *keys = asyncio.run(make_keys(service, names))
            header = {"authorization": f"Bearer {keys[-1]}"}
            wait_until(lambda: service.http.get("/v1/jobs", headers=header).status_code == 200, "the keys are known")
            others = Neighbours(service, receiver, keys)
            print(
                f"{TENANTS} tenants, {RATE:g} acts a second each, of: {', '.join(kind for kind, _, _ in abusers.KINDS)}"
            )
            if args.memory:
                return asyncio.run(watch_memory(service, others, keys))
            return asyncio.run(measure(service, others, calm_key, receiver, keys))


if __name__ == "__main__":
    sys.exit(main())
