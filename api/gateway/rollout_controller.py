"""Watches new model versions: records a version that a folder brought, and rolls back one that fails too often.

Any number of gateways may run it. A plan is changed by compare-and-set, so each step is applied once.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from api.settings import GatewaySettings
from jobs.contract.errors import Refused
from jobs.metrics import event_counters
from jobs.metrics.event_counters import RunCounts
from jobs.models import rollout_plan, version_routing
from jobs.models.catalog import ModelCatalog
from jobs.models.rollout_plan import RolloutPlan, RolloutWatch
from jobs.models.worker_registry import version_number
from jobs.redis_client import generic_scripts, keys
from jobs.redis_client.outage_log import OutageLog
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.api")

MAX_KILLS = 3  # worker deaths after which a version is rolled back, however few jobs it has finished


class RolloutController:
    """Checks the rollout plans of all models."""

    def __init__(self, store: JobStore, catalog: ModelCatalog, settings: GatewaySettings) -> None:
        self._store, self._catalog, self._settings = store, catalog, settings

    async def run(self) -> None:
        """Check all plans after each refresh of the catalog, until cancelled."""
        outage = OutageLog(log, "check new versions")
        while True:
            await self._catalog.wait_for_refresh()
            with outage.suppress():
                await self.check_all()

    async def check_all(self) -> None:
        """Check the plans of all models once; raises StoreUnavailable."""
        totals: dict[str, int] | None = None
        for name in self._catalog.names():
            plan = self._catalog.plan(name)
            new_version = self._find_new_version(name, plan)
            if plan.watch is None and not new_version:
                continue
            totals = await self._store.counts() if totals is None else totals
            if new_version:
                await self._record_new_version(name, new_version, totals)
            elif plan.watch is not None:
                await self._evaluate(name, plan.watch, totals)

    def _find_new_version(self, name: str, plan: RolloutPlan) -> str:
        if plan.pinned or plan.unloaded:
            return ""
        return version_routing.find_new_version(plan, self._catalog.cluster.votes(name))

    async def _record_new_version(self, name: str, version: str, totals: Mapping[str, int]) -> None:
        """Make a version from the folder the stable one, and watch it against the previous one."""
        watch_s = self._settings.rollback_watch_s if self._settings.rollback_errors else 0

        def step(plan: RolloutPlan) -> RolloutPlan:
            if self._find_new_version(name, plan) != version:
                return plan
            is_higher = version_number(version) > version_number(plan.stable)
            if not (watch_s and is_higher and self._catalog.cluster.serving(name, plan.stable)):
                return replace(plan, stable=version, before="", watch=None)
            counted = {v: event_counters.get_run_counts(totals, name, v) for v in (version, plan.stable)}
            watch = rollout_plan.begin_watch(version, plan.stable, counted, watch_s, now_s=self._catalog.cluster.now_s)
            return replace(plan, stable=version, before=plan.stable, watch=watch)

        plan, changed = await rollout_plan.update_plan(self._store.connection, name, step)
        if changed and plan.before:
            log.info("model %s: version %s from its folder replaces version %s", name, version, plan.before)

    async def _evaluate(self, name: str, watch: RolloutWatch, totals: Mapping[str, int]) -> None:
        if reason := self._rollback_reason(watch, name, totals):
            await self._roll_back(name, watch, reason)
        elif watch.until_s is not None and self._catalog.cluster.now_s > watch.until_s:
            await rollout_plan.update_plan(self._store.connection, name, lambda plan: _end_watch(plan, watch))

    def _rollback_reason(self, watch: RolloutWatch, name: str, totals: Mapping[str, int]) -> str:
        """Return why to roll back the watched version, or an empty string to keep it."""
        settings = self._settings
        now = {v: event_counters.get_run_counts(totals, name, v) for v in (watch.version, watch.against)}
        new, old = (watch.runs(v, now[v]) for v in (watch.version, watch.against))
        if not settings.rollback_errors:
            return ""
        if new.kills >= MAX_KILLS and new.kills > old.kills:
            return f"{new.kills} workers died while they ran its jobs"
        if old.judged < settings.rollback_jobs:  # too few since the watch began: use all its runs
            old = now[watch.against]
        if new.judged < settings.rollback_jobs or new.fault_share < old.fault_share + settings.rollback_errors:
            return ""
        return f"{_describe_faults(new)} failed, compared with {_describe_faults(old)} of version {watch.against}"

    async def _roll_back(self, name: str, watch: RolloutWatch, reason: str) -> None:
        def step(plan: RolloutPlan) -> RolloutPlan:
            if plan.watch != watch:
                return plan
            try:
                return rollout_plan.roll_back(plan, f"rolled back automatically: {reason}")
            except Refused:  # the previous version is no longer loaded
                return replace(plan, watch=None)

        plan, changed = await rollout_plan.update_plan(self._store.connection, name, step)
        if changed and watch.version not in plan.bad:
            message = "model %s: cannot roll back version %s, because no earlier version is loaded: %s"
            log.error(message, name, watch.version, reason)
        elif changed:
            log.error("model %s: version %s is rolled back automatically: %s", name, watch.version, reason)
            await generic_scripts.increment(self._store.connection, keys.counts(0), {f"rollbacks:{name}": 1})


def _end_watch(plan: RolloutPlan, watch: RolloutWatch) -> RolloutPlan:
    """End a successful watch. A version that is not pinned also drops its rollback target."""
    if plan.watch != watch:
        return plan
    return replace(plan, watch=None, before=plan.before if plan.pinned else "")


def _describe_faults(runs: RunCounts) -> str:
    return f"{runs.faults} of {runs.judged} jobs"
