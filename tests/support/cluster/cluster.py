"""A Jitney cluster for the fault tests: a queue, two gateways, three workers."""

import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx2
import redis

from jobs.metrics import event_counters as counts
from jobs.redis_client import keys
from jobs.store.raw_record import flatten
from tests.support import records
from tests.support.cluster.parts import (
    GatewayAddress,
    ManagedGateway,
    ManagedProcess,
    ManagedWorker,
    open_files,
    resident_mib,
)
from tests.support.cluster.proxy import Network, Proxy
from tests.support.processes import is_running
from tests.support.servers import Server
from tests.support.waiting import wait_until

COUNTS = "jitney:{s00}:counts"
# What one worker can hold of files beyond what it had before: connections that come and go with the load.
SPARE_FILES = 6
SPARE_MIB = 150


class Cluster:
    """Each gateway and each worker reaches the queue through a proxy of its own. Use it in a `with`."""

    def __init__(
        self,
        models_dir: Path,
        env: Mapping[str, str] | None = None,
        *,
        gateways: int = 2,
        workers: int = 3,
        appendfsync: str = "everysec",
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="jit"))
        self.server, self.network = Server(appendfsync=appendfsync), Network()
        shared = {"JITNEY_MODELS_DIR": str(models_dir), **(env or {})}
        self.gateways = [ManagedGateway(f"gateway{n}", shared, self.folder, self._way()) for n in range(gateways)]
        self.workers = [ManagedWorker(f"worker{n}", shared, self.folder, self._way()) for n in range(workers)]
        try:
            self.heal()
        except BaseException:
            self.close()
            raise

    def _way(self) -> Proxy:
        return Proxy(self.network, self.server.socket)

    @property
    def parts(self) -> list[ManagedProcess]:
        return [*self.gateways, *self.workers]

    def queue(self) -> "redis.Redis":
        """A direct connection to the queue, past all proxies."""
        return self.server.client()

    def before(self, gateway: ManagedGateway) -> tuple[Proxy, GatewayAddress]:
        """A proxy between callers and a gateway, and its endpoint."""
        proxy = Proxy(self.network, gateway.port)
        return proxy, GatewayAddress(f"before {gateway.name}", proxy.port)

    # ---- faults of the queue's server

    def freeze_server(self) -> None:
        self._signal_server(signal.SIGSTOP)

    def thaw_server(self) -> None:
        self._signal_server(signal.SIGCONT)

    def _signal_server(self, number: signal.Signals) -> None:
        if self.server.process is not None:
            self.server.process.send_signal(number)

    def move_to(self, server: Server) -> None:
        """Move every part to another server; the old one is gone for good."""
        old, self.server = self.server, server
        for part in self.parts:
            part.proxy.upstream = server.socket
            part.proxy.cut()
            part.proxy.heal()
        old.close()

    # ---- back to health

    def heal(self, timeout_s: float = 40) -> None:
        """Undo every fault: all parts run, all proxies pass traffic, every gateway knows every worker."""
        self.thaw_server()
        if self.server.process is None or self.server.process.poll() is not None:
            self.server.start()
        with self.queue() as client:
            client.config_set("maxmemory", 0)
        for part in self.parts:
            part.proxy.heal()
            part.thaw()
        wait_until(self._mend, "all parts work", timeout_s)

    def _mend(self) -> bool:
        for part in self.parts:
            if part.started is None or part.started.poll() is not None:
                part.start()
        return self.is_whole()

    def is_whole(self) -> bool:
        """Whether every gateway responds and counts exactly the running workers."""
        running = {worker.pid for worker in self.workers}
        if 0 in running or set(self.announced().values()) != running:
            return False
        for gateway in self.gateways:
            state = ask(gateway, "/readyz")
            if state is None or state.get("workers") != len(self.workers):
                return False
        return True

    def announced(self) -> dict[str, int]:
        """The live workers by id, with the pids that they announce."""
        with self.queue() as client:
            texts = [client.get(keys.worker(one.decode())) for one in client.smembers(keys.WORKERS)]
        return {report["id"]: int(report["pid"]) for text in texts if text for report in [json.loads(text)]}

    # ---- who holds what

    def job(self, job_id: str) -> dict[str, str]:
        """The record of a job in the queue."""
        with self.queue() as client:
            return records.read(client, job_id)

    def held(self) -> dict[ManagedWorker, list[str]]:
        """The jobs leased to each worker."""
        pids = self.announced()
        with self.queue() as client, client.pipeline(transaction=False) as pipe:
            held = [job_id.decode() for job_id in client.zrange("jitney:{s00}:timers", 0, -1)]
            for job_id in held:
                pipe.hgetall(keys.job(job_id))
            owners = [flatten(record).get("owner", "") for record in pipe.execute()]
        holders = [(job_id, pids.get(owner)) for job_id, owner in zip(held, owners, strict=True) if owner]
        return {worker: [job_id for job_id, pid in holders if pid == worker.pid] for worker in self.workers}

    def counts(self) -> dict[str, int]:
        """The number of jobs submitted and finished since the queue began."""
        with self.queue() as client:
            found: list[dict[bytes, bytes]] = [client.hgetall(key) for key in (COUNTS, keys.open_totals(0))]
        return counts.sum_shard_counts(*found)

    def forget_jobs(self) -> None:
        """Drop the final jobs of earlier tests, so that listing all jobs stays cheap. The counts stay."""
        with self.queue() as client:
            patterns = [
                f"jitney:*:{kind}"
                for kind in ("job:*", "tenant_jobs:*", "idempotency*", "dead_letter*", "tenant_dead_letters:*")
            ]
            gone = [key for pattern in patterns for key in client.scan_iter(pattern, count=1000)]
            if gone:
                client.unlink(*gone)

    # ---- what the processes take

    def footprint(self) -> dict[int, tuple[str, int, float]]:
        """Open files and memory of each process."""
        return {part.pid: (part.name, open_files(part.pid), resident_mib(part.pid)) for part in self.parts if part.pid}

    def assert_no_growth(self, before: Mapping[int, tuple[str, int, float]]) -> None:
        """Fail where a surviving process holds more files or memory than before."""
        for pid, (name, files, mib) in before.items():
            if is_running(pid):
                wait_until(lambda pid=pid, files=files: open_files(pid) <= files + SPARE_FILES, f"{name} closes files")  # type: ignore[misc]
                assert resident_mib(pid) <= mib + SPARE_MIB, f"{name} had {mib:.0f} MiB, has {resident_mib(pid):.0f}"

    def last_words(self, lines: int = 12) -> str:
        """The last lines of all logs, for the message of a failed test."""
        return "".join(f"--- {part.name}\n" + "".join(part.log().splitlines(True)[-lines:]) for part in self.parts)

    def close(self) -> None:
        """Stop everything, each part before those it depends on."""
        steps: list[Callable[[], object]] = [self.thaw_server, *(part.close for part in self.parts)]
        for step in [*steps, self.network.close, self.server.close]:
            step()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(gateway: ManagedGateway, path: str) -> dict[str, Any] | None:
    """The response of a gateway to this path; None without a response."""
    try:
        answer: dict[str, Any] = httpx2.get(gateway.url + path, trust_env=False, verify=False, timeout=5).json()
    except (httpx2.HTTPError, ValueError):
        return None
    return answer
