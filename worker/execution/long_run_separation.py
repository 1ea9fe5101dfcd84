"""Decides which versions a worker leaves to other workers, so that short runs do not wait for long ones.

A device runs one batch after the other. A run of seconds therefore delays every short run in its worker. While models
of both kinds receive jobs, half of the workers that serve both claim the long runs, and the others the short ones.
Each worker decides for itself from what all workers report. If a model has received no job for `QUIET_S`, or a worker
is gone, the others claim everything again.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from jobs.models import worker_registry
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.worker")

LONG_RUN_S: Final = 0.1  # the shortest long run
LONG_FACTOR: Final = 10  # times the shortest run of another model
QUIET_S: Final = 600.0


def skipped_versions(
    workers: Mapping[str, Collection[str]], run_s: Mapping[str, float], active: Collection[str]
) -> dict[str, frozenset[str]]:
    """Return the versions that each worker leaves to others, by worker id. Versions are named `<name> <version>`.

    `workers`: the versions that each live worker serves. `run_s`: seconds of a usual run. `active`: the versions whose
    model has received jobs lately. Every version is left to at least one worker that claims it.
    """
    known = {version: run_s[version] for version in active if version in run_s}
    shortest = min(known.values(), default=0.0)
    long = {version for version, seconds in known.items() if seconds >= max(LONG_RUN_S, LONG_FACTOR * shortest)}
    short = known.keys() - long
    both = sorted(worker for worker, served in workers.items() if long & {*served} and short & {*served})
    of_short, of_long = both[: len(both) // 2], both[len(both) // 2 :]
    if not of_short:
        return {}
    left_by_short = long.intersection(_served(workers, of_long))
    left_by_long = short.intersection(_served(workers, of_short))
    return dict.fromkeys(of_short, frozenset(left_by_short)) | dict.fromkeys(of_long, frozenset(left_by_long))


def _served(workers: Mapping[str, Collection[str]], group: Collection[str]) -> set[str]:
    return {version for worker in group for version in workers[worker]}


class LongRunSeparation:
    """The versions that one worker leaves to others. `on_change` is called when they change."""

    def __init__(self, store: JobStore, worker_id: str, on_change: Callable[[], None]) -> None:
        self._store, self._worker_id, self._on_change = store, worker_id, on_change
        self._submitted: dict[str, int] = {}  # model → jobs submitted so far
        self._active_at: dict[str, float] = {}  # model → when it received its last jobs, on the monotonic clock
        self.skipped: frozenset[str] = frozenset()

    async def decide(self) -> None:
        """Decide again. Raises StoreUnavailable: then the last decision stays."""
        reports = await worker_registry.read_workers(self._store.connection)
        workers = {worker.id: worker.models for worker in reports}
        run_s: dict[str, float] = {}
        for worker in reports:
            for version, seconds in worker.run_s.items():
                run_s[version] = max(seconds, run_s.get(version, 0.0))
        skipped: frozenset[str] = frozenset()
        if self._worker_id in skipped_versions(workers, run_s, run_s):  # then it matters which models are active
            await self._observe_activity({version.partition(" ")[0] for version in run_s})
            now = time.monotonic()
            active = [v for v in run_s if now - self._active_at.get(v.partition(" ")[0], -QUIET_S) < QUIET_S]
            skipped = skipped_versions(workers, run_s, active).get(self._worker_id, skipped)
        if skipped != self.skipped:
            log.info("leaves to other workers: %s", ", ".join(sorted(skipped)) or "nothing")
            self.skipped = skipped
            self._on_change()

    async def _observe_activity(self, models: Collection[str]) -> None:
        """Note the models that have open jobs, or have received jobs since the last time."""
        now = time.monotonic()
        for model, (submitted, open_jobs) in (await self._store.job_totals(models)).items():
            if open_jobs or submitted > self._submitted.get(model, submitted):
                self._active_at[model] = now
            self._submitted[model] = submitted
