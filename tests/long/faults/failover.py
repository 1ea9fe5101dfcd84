"""A managed failover under load; the old primary stays alive with its connections.

Two real servers, one a replica of the other, behind a forwarder that leads new connections to the primary of the
moment. Each round they change places while callers submit and wait. Prints what each round cost them.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import httpx2

from tests.support import models
from tests.support.cluster.proxy import Network, Proxy
from tests.support.servers import Server, free_port
from tests.support.service import Service
from tests.support.waiting import wait_until

BODY: Final = b"\0\0\x80?" * 4
CALLERS: Final = 8
IMPATIENT_S: Final = 0.1  # the pause of a caller who takes no notice of Retry-After
MOST_BACK_S: Final = 1.0
# A service's own times, where other tests are ten times faster.
TIMES: Final = (
    "JITNEY_LEASE_S=20",
    "JITNEY_HEARTBEAT_S=5",
    "JITNEY_SWEEP_INTERVAL_S=1.5",
    "JITNEY_METRICS_FLUSH_S=1",
    "JITNEY_IDLE_POLL_S=1",
    "JITNEY_MODEL_REFRESH_S=2",
)
DEFAULTS: Final[dict[str, str]] = {name: value for name, _, value in (one.partition("=") for one in TIMES)}


class Pair:
    """A primary and its replica, and an address that forwards to the primary."""

    def __init__(self) -> None:
        at_once = ("--repl-diskless-sync-delay", "0")
        self.primary, self.replica = (Server(port=free_port(), options=at_once) for _ in range(2))
        self.network = Network()
        self.forwarder = Proxy(self.network, self.primary.port)
        self.url = f"redis://127.0.0.1:{self.forwarder.port}/0"
        self._make_replica()

    def _make_replica(self) -> None:
        with self.replica.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", str(self.primary.port))
        self.until_in_step()

    def until_in_step(self) -> None:
        """Wait until the replica has all that the primary has."""
        with self.replica.client() as client:
            wait_until(lambda: client.info("replication").get("master_link_status") == "up", "the replica follows", 20)

    def managed(self) -> None:
        """Swap as a managed service does: no write is lost, and the address follows a moment later."""
        with self.primary.client() as old:
            old.execute_command("FAILOVER", "TO", "127.0.0.1", str(self.replica.port))
            wait_until(lambda: old.info("replication")["role"] == "slave", "the old primary is a replica")
        self.switch()

    def by_hand(self) -> None:
        """Swap by three commands; writes are paused so that none is lost between them."""
        with self.primary.client() as old, self.replica.client() as new:
            old.execute_command("CLIENT", "PAUSE", "10000", "WRITE")
            until = int(old.info("replication")["master_repl_offset"])
            wait_until(lambda: int(new.info("replication")["slave_repl_offset"]) >= until, "the replica has it all")
            new.execute_command("REPLICAOF", "NO", "ONE")
            self.switch()
            old.execute_command("REPLICAOF", "127.0.0.1", str(self.primary.port))
            old.execute_command("CLIENT", "UNPAUSE")

    def switch(self) -> None:
        """Forward new connections to the other server, the new primary."""
        self.primary, self.replica = self.replica, self.primary
        self.forwarder.upstream = self.primary.port

    def close(self) -> None:
        self.network.close()
        for server in (self.primary, self.replica):
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Call(NamedTuple):
    """One request: its begin, end and status; 0 without a response."""

    began: float
    ended: float
    status: int


class Callers:
    """Threads that each submit a job, wait for it, and repeat."""

    def __init__(self, url: str, count: int = CALLERS, pause_s: float = 1.0) -> None:
        """`pause_s`: after a refusal; Retry-After says 1 s."""
        self._pause_s = pause_s
        self.calls: list[list[Call]] = [[] for _ in range(count)]
        self.wrong: list[str] = []
        self._url, self._stop = url, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(calls,), daemon=True) for calls in self.calls]

    @contextmanager
    def running(self) -> Iterator[Self]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(20)

    def _run(self, calls: list[Call]) -> None:
        headers = {"content-type": "application/octet-stream", "prefer": "wait=10"}
        with httpx2.Client(base_url=self._url, timeout=20, trust_env=False) as http:
            while not self._stop.is_set():
                began, status = time.monotonic(), 0
                try:
                    answer = http.post("/v1/jobs?model=double", content=BODY, headers=headers)
                    status = answer.status_code
                    if status not in (200, 503) or (status == 200 and answer.json()["status"] != "succeeded"):
                        self.wrong.append(f"{status} {answer.text[:200]}")
                except httpx2.HTTPError as error:
                    self.wrong.append(repr(error))
                calls.append(Call(began, time.monotonic(), status))
                if status != 200:
                    self._stop.wait(self._pause_s)

    def succeed_again(self, since: float) -> bool:
        """Whether each has had a response to a request begun after that time."""
        return all(any(call.status == 200 and call.began >= since for call in [*calls]) for calls in self.calls)


class Round(NamedTuple):
    """The cost of one failover: the most 503s of a caller, and the seconds until the last next response."""

    refusals: int
    back_s: float

    @property
    def is_good(self) -> bool:
        return self.refusals <= 1 and self.back_s < MOST_BACK_S


def fail_over(callers: Callers, change: Callable[[], None]) -> Round:
    """Swap the servers, and measure what the callers saw."""
    seen = [len(calls) for calls in callers.calls]
    change()
    changed_at = time.monotonic()
    wait_until(lambda: callers.succeed_again(changed_at), f"every caller is answered again; {callers.wrong[-3:]}", 30)
    after = [calls[count:] for calls, count in zip(callers.calls, seen, strict=True)]
    back = [next(call.ended for call in calls if call.status == 200 and call.ended >= changed_at) for calls in after]
    return Round(max(sum(call.status == 503 for call in calls) for calls in after), max(back) - changed_at)


def rounds(
    pair: Pair, service: Service, count: int, tell: Callable[[str], Any] = lambda _line: None, pause_s: float = 1.0
) -> list[Round]:
    """Fail over a number of times, back and forth, every second time by hand."""
    found: list[Round] = []
    with Callers(service.url, pause_s=pause_s).running() as callers:
        wait_until(lambda: callers.succeed_again(0), "every caller is answered", 20)
        for number in range(count):
            pair.until_in_step()
            how = pair.managed if number % 2 == 0 else pair.by_hand
            found.append(fail_over(callers, how))
            tell(f"round {number + 1}, {how.__name__}: {found[-1].refusals} refused, back in {found[-1].back_s:.2f} s")
    assert callers.wrong == []
    return found


@contextmanager
def running(env: dict[str, str] | None = None) -> Iterator[tuple[Pair, Service]]:
    """A pair of servers, and a whole Jitney that reaches them by one address."""
    folder = Path(tempfile.mkdtemp(prefix="jit"))
    try:
        models.doubling(folder / "models")
        with (
            Pair() as pair,
            Service(folder / "models", {**DEFAULTS, "JITNEY_REDIS_URL": pair.url, **(env or {})}) as service,
        ):
            yield pair, service
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run the rounds; return 1 where a caller was refused twice in one, or waited a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    with running() as (pair, service):
        found = rounds(pair, service, given.rounds, print, IMPATIENT_S)
    times = sorted(one.back_s for one in found)
    print(
        f"{len(found)} failovers: refused at most {max(one.refusals for one in found)} times a caller; back in "
        f"{times[len(times) // 2]:.2f} s (median), {times[-1]:.2f} s (longest)"
    )
    return 0 if all(one.is_good for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
