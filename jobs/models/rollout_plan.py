"""Rollout plan of a model (stable version, canary, kept versions): its storage in Redis, and every change to it.

A plan is the desired state, kept in Redis; workers and gateways read it and converge. Workers announce the actual state
(`jobs/models/worker_registry.py`). A model without a plan follows its folder. Admins change plans; so do gateways: they
record a new version in the folder, and roll back a version that does worse than its predecessor.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Final

import orjson
from pydantic import TypeAdapter

from jobs.contract.errors import Refused
from jobs.metrics.event_counters import RunCounts
from jobs.redis_client import generic_scripts, keys
from jobs.redis_client.client import RedisClient

log = logging.getLogger("jitney.jobs")

PLANS_CHANGED: Final = b"plans"


@dataclass(frozen=True, slots=True)
class RolloutWatch:
    """Comparison of a version that began to take jobs with the one before it, from the counts at that moment."""

    version: str
    against: str
    since_s: float
    until_s: float | None  # None: while it is the canary
    counted: dict[str, list[int]] = field(default_factory=dict)  # version → its RunCounts at the beginning

    def runs(self, version: str, now: RunCounts) -> RunCounts:
        """Return the outcomes of a version's jobs since the watch began."""
        return now.less(RunCounts(*self.counted.get(version, ())))


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """Plan of one model. Versions are folder numbers; an empty string means none."""

    stable: str = ""  # takes the jobs, less the canary's share
    pinned: bool = False  # chosen by an admin; else by the folder: its highest, or the pin in model.toml
    canary: str = ""
    percent: int = 0  # the canary's share of the jobs
    before: str = ""  # the previous stable version: stays loaded for a rollback
    kept: list[str] = field(default_factory=list)  # also loaded, without jobs
    unloaded: bool = False  # no version is to be loaded
    bad: dict[str, str] = field(default_factory=dict)  # version → why it was rolled back; the folder cannot choose it
    asked: dict[str, int] = field(default_factory=dict)  # version → count of load requests; an increase reloads it
    watch: RolloutWatch | None = None
    stamp: str = field(default="", compare=False)  # unique per write, so that two equal writes still conflict

    def wants(self, choice: str) -> set[str]:
        """Return the versions to load if the folder chooses `choice`."""
        if self.unloaded:
            return set()
        stable = self.stable if self.pinned else choice
        return {stable, self.canary, self.before, *self.kept} - {""}


FOLLOW_FOLDER: Final = RolloutPlan()
_PLAN: Final = TypeAdapter(RolloutPlan)


def parse_plan(text: bytes) -> RolloutPlan:
    """Parse a plan that any release wrote. Raises ValueError."""
    return _PLAN.validate_json(text)


async def read_plans(connection: RedisClient) -> dict[str, RolloutPlan]:
    """Read all plans, by model. An unreadable plan is logged and ignored: the model follows its folder."""
    stored: Mapping[bytes, bytes] = await connection.command("HGETALL", keys.PLANS)
    plans = {}
    for name, text in stored.items():
        try:
            plans[name.decode()] = parse_plan(text)
        except ValueError as error:
            log.warning("cannot read the plan of model %.80r, which follows its folder now: %s", name, error)
    return plans


async def update_plan(
    connection: RedisClient, model: str, step: Callable[[RolloutPlan], RolloutPlan]
) -> tuple[RolloutPlan, bool]:
    """Apply `step` to the current plan; return the plan, and whether it changed. Raises what `step` raises.

    `step` may run several times, so it must have no side effects. All processes are notified of a change.
    """
    updated = FOLLOW_FOLDER

    def change(text: bytes) -> bytes | None:
        nonlocal updated
        try:
            plan = parse_plan(text) if text else FOLLOW_FOLDER
        except ValueError:
            plan = FOLLOW_FOLDER
        updated = step(plan)
        return None if updated == plan else orjson.dumps(replace(updated, stamp=token_hex(4)))

    changed = await generic_scripts.replace_field(
        connection, keys.PLANS, model, change, f"the plan of model {model} is"
    )
    if changed:
        await connection.command("PUBLISH", keys.INVALIDATION, PLANS_CHANGED)
    return updated, changed


# ---- steps of admins: each returns the next plan or raises Refused


def load_version(plan: RolloutPlan, version: str, takes_jobs: str) -> RolloutPlan:
    """Load or reload a version. It takes jobs only if no version (`takes_jobs`) does."""
    asked = {**plan.asked, version: plan.asked.get(version, 0) + 1}
    bad = {key: why for key, why in plan.bad.items() if key != version}
    if plan.unloaded:
        return replace(plan, asked=asked, bad=bad, unloaded=False, stable=version, pinned=True)
    plan = replace(plan, asked=asked, bad=bad)
    if version in (plan.stable, plan.canary, plan.before, takes_jobs):
        return plan
    if not takes_jobs:
        return replace(plan, stable=version, pinned=True, kept=_without(plan.kept, version))
    return replace(_pin_stable(plan, takes_jobs), kept=[*_without(plan.kept, version), version])


def undo_unload(plan: RolloutPlan) -> RolloutPlan:
    """Load an unloaded model again."""
    return replace(plan, unloaded=False)


def unload_version(plan: RolloutPlan, version: str, takes_jobs: str) -> RolloutPlan:
    """Unload a version, or the whole model if `version` is empty."""
    if not version:
        return replace(plan, unloaded=True, canary="", percent=0, before="", kept=[], watch=None)
    if version == takes_jobs:
        message = (
            f"version {version} takes the jobs: promote another first, or unload the model without naming a version"
        )
        raise Refused("invalid_request", message)
    if version not in (plan.canary, plan.before, *plan.kept):  # a folder chose it
        plan = _pin_stable(plan, takes_jobs)
    if version == plan.canary:
        plan = replace(plan, canary="", percent=0, watch=None)
    before = "" if version == plan.before else plan.before
    watch = None if plan.watch and version in (plan.watch.version, plan.watch.against) else plan.watch
    return replace(plan, before=before, watch=watch, kept=_without(plan.kept, version))


def set_canary_share(
    plan: RolloutPlan, version: str, percent: int, takes_jobs: str, counted: Mapping[str, RunCounts], *, now_s: float
) -> RolloutPlan:
    """Make a version the canary and give it `percent` of the jobs.

    `now_s`, here and below: the Redis server's time.
    """
    if version == takes_jobs:
        raise Refused("invalid_request", f"version {version} takes the jobs: give a share to another version")
    plan = _pin_stable(plan, takes_jobs)
    watch = plan.watch
    if watch is None or watch.version != version:
        watch = begin_watch(version, takes_jobs, counted, now_s=now_s)
    bad = {key: why for key, why in plan.bad.items() if key != version}
    kept, before = _without(plan.kept, version), "" if version == plan.before else plan.before
    return replace(
        plan, canary=version, percent=percent, watch=watch, bad=bad, kept=kept, before=before, unloaded=False
    )


def promote(
    plan: RolloutPlan, version: str, takes_jobs: str, counted: Mapping[str, RunCounts], watch_s: float, *, now_s: float
) -> RolloutPlan:
    """Give all jobs to a version; the previous one stays loaded for a rollback."""
    bad = {key: why for key, why in plan.bad.items() if key != version}
    kept = _without(plan.kept, version)
    if version == takes_jobs:
        return replace(plan, stable=version, pinned=True, canary="", percent=0, bad=bad, kept=kept, unloaded=False)
    watch = begin_watch(version, takes_jobs, counted, watch_s, now_s=now_s) if takes_jobs and watch_s else None
    plan = replace(plan, stable=version, pinned=True, canary="", percent=0, before=takes_jobs, watch=watch)
    return replace(plan, bad=bad, kept=kept, unloaded=False)


def roll_back(plan: RolloutPlan, why: str) -> RolloutPlan:
    """End the canary or, without one, return to the previous version. `why` is recorded and bars the version."""
    retired = plan.canary or plan.stable
    bad = {**plan.bad, retired: why}
    if plan.canary:
        return replace(plan, canary="", percent=0, bad=bad, watch=None)
    if not plan.before:
        raise Refused("nothing_to_roll_back", "there is no canary, and no earlier version that is still loaded")
    return replace(plan, stable=plan.before, before="", bad=bad, watch=None)


def follow_folder(_plan: RolloutPlan) -> RolloutPlan:
    """Discard the plan: the folder decides again."""
    return FOLLOW_FOLDER


def begin_watch(
    version: str, against: str, counted: Mapping[str, RunCounts], watch_s: float | None = None, *, now_s: float
) -> RolloutWatch:
    """Start watching a version that begins to take jobs."""
    until_s = None if watch_s is None else now_s + watch_s
    begin = {key: list(counted.get(key, RunCounts())) for key in (version, against) if key}
    return RolloutWatch(version, against, now_s, until_s, begin)


def _pin_stable(plan: RolloutPlan, takes_jobs: str) -> RolloutPlan:
    """Pin the version that takes the jobs: from now on an admin decides, not the folder."""
    return plan if plan.pinned or not takes_jobs else replace(plan, stable=takes_jobs, pinned=True)


def _without(versions: list[str], version: str) -> list[str]:
    return [other for other in versions if other != version]
