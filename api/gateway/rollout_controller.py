"""Looks after versions that have just begun to take jobs: notes when a folder brought one, takes bad ones back.

Any number of gateways may look: a plan is only changed from what was read, so each step is taken once.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from api.settings import GatewaySettings
from jobs.contract.errors import Refused, StoreUnavailable
from jobs.metrics import event_counters
from jobs.metrics.event_counters import RunCounts
from jobs.models import rollout_plan, version_routing
from jobs.models.catalog import ModelCatalog
from jobs.models.rollout_plan import RolloutPlan, RolloutWatch
from jobs.models.worker_registry import version_number
from jobs.redis_client import keys
from jobs.redis_client.outage_log import OutageLog
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.api")

MAX_KILLS = 3  # deaths of workers say enough, however few jobs have ended


class RolloutController:
    """Follows the plans of all models."""

    def __init__(self, store: JobStore, catalog: ModelCatalog, settings: GatewaySettings) -> None:
        self._store, self._catalogue, self._settings = store, catalog, settings

    async def run(self) -> None:
        """Look until cancelled, after each look of the catalogue."""
        outage = OutageLog(log, "look after new versions")
        while True:
            await self._catalogue.wait_for_refresh()
            try:
                await self.check_all()
                outage.ended()
            except StoreUnavailable as error:
                outage.began(error)

    async def check_all(self) -> None:
        """Look once."""
        totals: dict[str, int] | None = None
        for name in self._catalogue.names():
            plan = self._catalogue.plan(name)
            risen = self._find_risen_version(name, plan)
            if plan.watch is None and not risen:
                continue
            totals = await self._store.counts() if totals is None else totals
            if risen:
                await self._record_new_version(name, risen, totals)
            elif plan.watch is not None:
                await self._evaluate(name, plan.watch, totals)

    def _find_risen_version(self, name: str, plan: RolloutPlan) -> str:
        if plan.pinned or plan.unloaded:
            return ""
        return version_routing.find_new_version(plan, self._catalogue.cluster.votes(name))

    async def _record_new_version(self, name: str, version: str, totals: Mapping[str, int]) -> None:
        """A folder has brought another version: remember the one before, and watch."""
        watch_s = self._settings.rollback_watch_s if self._settings.rollback_errors else 0

        def step(plan: RolloutPlan) -> RolloutPlan:
            if self._find_risen_version(name, plan) != version:
                return plan
            is_higher = version_number(version) > version_number(plan.stable)
            if not (watch_s and is_higher and self._catalogue.cluster.serving(name, plan.stable)):
                return replace(plan, stable=version, before="", watch=None)
            counted = {one: event_counters.get_run_counts(totals, name, one) for one in (version, plan.stable)}
            watch = rollout_plan.begin_watch(
                version, plan.stable, counted, watch_s, now_s=self._catalogue.cluster.now_s
            )
            return replace(plan, stable=version, before=plan.stable, watch=watch)

        plan, changed = await rollout_plan.update_plan(self._store.connection, name, step)
        if changed and plan.before:
            log.info("model %s: its folder brought version %s in place of %s", name, version, plan.before)

    async def _evaluate(self, name: str, watch: RolloutWatch, totals: Mapping[str, int]) -> None:
        if why := self._rollback_reason(watch, name, totals):
            await self._roll_back(name, watch, why)
        elif watch.until_s is not None and self._catalogue.cluster.now_s > watch.until_s:
            await rollout_plan.update_plan(self._store.connection, name, lambda plan: _end_watch(plan, watch))

    def _rollback_reason(self, watch: RolloutWatch, name: str, totals: Mapping[str, int]) -> str:
        """Say why a version is to be taken back; an empty string where nothing (yet) speaks against it."""
        settings = self._settings
        now = {one: event_counters.get_run_counts(totals, name, one) for one in (watch.version, watch.against)}
        new, old = (watch.runs(one, now[one]) for one in (watch.version, watch.against))
        if not settings.rollback_errors:
            return ""
        if new.kills >= MAX_KILLS and new.kills > old.kills:
            return f"workers died with its jobs {new.kills} times"
        if old.judged < settings.rollback_jobs:  # few since: then all that it ever did
            old = now[watch.against]
        if new.judged < settings.rollback_jobs or new.fault_share < old.fault_share + settings.rollback_errors:
            return ""
        return f"{_describe_faults(new)} failed, of version {watch.against} {_describe_faults(old)}"

    async def _roll_back(self, name: str, watch: RolloutWatch, why: str) -> None:
        def step(plan: RolloutPlan) -> RolloutPlan:
            if plan.watch != watch:
                return plan
            try:
                return rollout_plan.roll_back(plan, f"taken back by itself: {why}")
            except Refused:  # the version before is gone: there is no way back
                return replace(plan, watch=None)

        plan, changed = await rollout_plan.update_plan(self._store.connection, name, step)
        if changed and watch.version not in plan.bad:
            words = "model %s: version %s should be taken back, and no version is left to go back to: %s"
            log.error(words, name, watch.version, why)
        elif changed:
            log.error("model %s: version %s is taken back by itself: %s", name, watch.version, why)
            await self._store.connection.script("generic/increment", keys.counts(0), f"rollbacks:{name}", 1)


def _end_watch(plan: RolloutPlan, watch: RolloutWatch) -> RolloutPlan:
    """The version has done well for long enough. What a folder brought needs no way back any more."""
    if plan.watch != watch:
        return plan
    return replace(plan, watch=None, before=plan.before if plan.pinned else "")


def _describe_faults(runs: RunCounts) -> str:
    return f"{runs.faults} of {runs.judged} jobs"
