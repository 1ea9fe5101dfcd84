"""The ways to kill a part of a cluster, and the time until others have done its work."""

import asyncio
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable

import redis

from tests.support.cluster.callers import Caller, four
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.history import FINAL, History
from tests.support.waiting import wait_until

LIMIT_S = 180  # a queue server that comes back reads its data first
KINDS = {"worker": 5, "gateway": 2, "queue": 2, "worker frozen": 1}


class Killer:
    """Kills random parts at intervals, and follows the jobs they held to their ends."""

    def __init__(self, cluster: Cluster, chance: random.Random, stop: asyncio.Event) -> None:
        self._cluster, self._chance, self._stop = cluster, chance, stop
        self.kinds: Counter[str] = Counter()
        self.recovered_s: dict[str, list[float]] = {}

    async def run(self, interval_s: float) -> None:
        while True:
            try:
                await asyncio.wait_for(self._stop.wait(), interval_s)
            except TimeoutError:
                (kind,) = self._chance.choices([*KINDS], [*KINDS.values()])
                took_s = await asyncio.to_thread(self._strike, kind)
                self.kinds[kind] += 1
                self.recovered_s.setdefault(kind, []).append(took_s)
            else:
                return

    def _strike(self, kind: str) -> float:
        """Break one part, repair it as its supervisor would, and return the seconds until its jobs had ended."""
        cluster = self._cluster
        held = cluster.held()
        victim = self._chance.choice(cluster.workers)
        begun = time.monotonic()
        if kind == "worker":
            victim.kill()
            wanted = held[victim]
        elif kind == "worker frozen":
            victim.freeze()
            wait_until(lambda: time.monotonic() > begun + 8, "it has stood still")
            victim.thaw()
            wanted = held[victim]
        else:
            wanted = [job_id for ids in held.values() for job_id in ids]
            pause_s = self._chance.uniform(1, 3)
            gateway = self._chance.choice(cluster.gateways)
            (cluster.server if kind == "queue" else gateway).kill()
            wait_until(lambda: time.monotonic() > begun + pause_s, "it was away")
            (cluster.server if kind == "queue" else gateway).start()
        until_ended(cluster, wanted)
        took_s = time.monotonic() - begun
        wait_until(cluster.is_whole, "all parts are back", LIMIT_S)
        return took_s


def until_ended(cluster: Cluster, ids: list[str]) -> None:
    """Wait until these jobs have ended; past all gateways."""
    left = list(ids)

    def ended() -> bool:
        try:
            while left and cluster.job(left[-1]).get("state", "gone") in {*FINAL, "gone"}:
                left.pop()
        except redis.RedisError:
            return False
        return not left

    wait_until(ended, f"{len(ids)} jobs have ended", LIMIT_S)


def rounds(cluster: Cluster, workers: int, machines: int, seed: int) -> int:
    """Kill a worker with a full batch again and again; print how long its jobs took to end. The exit code."""
    caller = Caller(cluster, History(), seed)
    chance = random.Random(seed)
    code = _print("the worker process", [_round(cluster, caller, chance, _kill_worker) for _ in range(workers)])
    code |= _print("its supervisor too", [_round(cluster, caller, chance, _kill_all) for _ in range(machines)])
    caller.close()
    return code


def _round(cluster: Cluster, caller: Caller, chance: random.Random, kill: Callable[[Cluster, int], None]) -> float:
    ids = [caller.submit(four(chance)) for _ in range(48)]
    at = chance.randrange(len(cluster.workers))
    held = wait_until(lambda: _full(cluster, at), "a worker has a full batch", LIMIT_S)
    begun = time.monotonic()
    kill(cluster, at)
    until_ended(cluster, held)
    took_s = time.monotonic() - begun
    until_ended(cluster, ids)
    wait_until(cluster._mend, "all parts are back", LIMIT_S)
    states = Counter(cluster.job(job_id).get("state", "gone") for job_id in ids)
    assert set(states) == {"succeeded"}, states
    return took_s


def _full(cluster: Cluster, at: int) -> list[str]:
    held = cluster.held()[cluster.workers[at]]
    return held if len(held) >= 8 else []


def _kill_worker(cluster: Cluster, at: int) -> None:
    cluster.workers[at].kill()


def _kill_all(cluster: Cluster, at: int) -> None:
    """Simulates the loss of a machine: no process remains that could report the dead worker."""
    worker = cluster.workers[at]
    top = worker.started
    pid = worker.pid
    if top is not None:
        os.kill(top.pid, signal.SIGSTOP)  # otherwise it would recover its child first
        os.kill(pid, signal.SIGKILL)
        os.kill(top.pid, signal.SIGKILL)
        top.wait()


def _print(who: str, times: list[float]) -> int:
    if times:
        p50, most = statistics.median(times), max(times)
        print(f"kill -9 of {who}, {len(times)} rounds: p50 {p50:.2f} s, max {most:.2f} s", flush=True)
    return int(any(took_s >= 30 for took_s in times))
