"""One test's use of the cluster: its requests and responses are recorded, and checked at the end."""

import random
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.support.cluster import checker
from tests.support.cluster.callers import Caller, Input, Load, four
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.history import FINAL, History
from tests.support.cluster.parts import ManagedGateway, ManagedWorker
from tests.support.waiting import wait_until

BATCH = 8  # what a batch of the model `slow` takes


class Scenario:
    """One test on the cluster: `enter` needs it whole, `leave` repairs it and checks every promise."""

    def __init__(self, cluster: Cluster, seed: int, log: Path) -> None:
        self.cluster, self.history = cluster, History()
        self.random = random.Random(seed)
        self.caller = Caller(cluster, self.history, seed)
        self._seed, self._log = seed, log

    def enter(self) -> None:
        """Begin with a cluster that is whole."""
        self.cluster.heal()
        self.cluster.forget_jobs()
        self.submitted_before = checker.assert_counts_add_up(self.cluster)
        self.before = self.cluster.footprint()

    def leave(self, *, failed: bool) -> None:
        """Repair the cluster, and check its promises unless the test has failed by itself."""
        self.caller.close()
        try:
            if failed:
                self._tell()
            self.cluster.heal()
            if not failed:
                checker.check(self.cluster, self.history, self.submitted_before)
                self.cluster.assert_no_growth(self.before)
        except BaseException:
            self._tell()
            raise

    def _tell(self) -> None:
        self.history.write(self._log)
        sys.stdout.write(f"what callers saw: {self._log}\n{self.cluster.last_words()}")

    def load(self, callers: int = 4, models: tuple[str, ...] = ("digits", "double")) -> AbstractContextManager[Load]:
        """Run callers in the background during the `with`."""
        return Load(self.cluster, self.history, self._seed, callers, models).running()

    def submit(self, count: int, make: Callable[[random.Random], Input] = four) -> list[str]:
        """Submit a number of jobs; return their ids."""
        return [self.caller.submit(make(self.random)) for _ in range(count)]

    def submit_together(self, inputs: Sequence[Input]) -> list[str]:
        """Queue inputs before the workers claim, so that one claim fills a batch."""
        for worker in self.cluster.workers:
            worker.freeze()
        ids = [self.caller.submit(one) for one in inputs]
        for worker in self.cluster.workers:
            worker.thaw()
        return ids

    def full_batch(self) -> tuple[ManagedWorker, list[str]]:
        """Give every worker a full batch of slow jobs; return one worker and its one or two batches."""
        ids = set(self.submit_together([four(self.random) for _ in range(6 * BATCH)]))

        def found() -> tuple[ManagedWorker, list[str]] | None:
            for worker, held in self.cluster.held().items():
                if len(held) >= BATCH and ids >= set(held):
                    return worker, held
            return None

        return wait_until(found, "some worker has a full batch")

    def final(
        self, ids: list[str], through: ManagedGateway | None = None, timeout_s: float = 30
    ) -> list[dict[str, Any]]:
        """Wait for the end of jobs, reading through any gateway, or through this one."""
        jobs: dict[str, dict[str, Any]] = {}

        def ended() -> bool:
            for job_id in ids:
                if job_id not in jobs:
                    job = self.caller.read(job_id, through or self.caller.any_gateway())
                    if job is None or job["status"] not in FINAL:
                        return False
                    jobs[job_id] = job
            return True

        wait_until(ended, f"all of {len(ids)} jobs end; {len(jobs)} have", timeout_s)
        return [jobs[job_id] for job_id in ids]
