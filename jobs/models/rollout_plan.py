"""What is to become of each model's versions: which takes the jobs, which tries its luck with some, which goes.

A plan is what is wanted, kept in the queue; workers and gateways read it, and each does its part whenever it can.
What is, workers announce (`jobs/models/worker_registry.py`). A model without a plan follows its folder. Changed by
admins, and by gateways, which note what a folder brought, and take back a version that does worse than the one before.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Final

import orjson
from pydantic import TypeAdapter

from jobs.contract.errors import Refused, StoreUnavailable
from jobs.metrics.event_counters import RunCounts
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient

log = logging.getLogger("jitney.jobs")

PLANS_CHANGED: Final = b"plans"
MAX_CHANGE_ATTEMPTS: Final = 10  # to change what others change at the same time


@dataclass(frozen=True, slots=True)
class RolloutWatch:
    """A version that has just begun to take jobs, and what it is held against: what both have done since then."""

    version: str
    against: str
    since_s: float
    until_s: float | None  # None: as long as it is the canary
    counted: dict[str, list[int]] = field(default_factory=dict)  # version → its `Runs` at the beginning

    def runs(self, version: str, now: RunCounts) -> RunCounts:
        """Give how a version's jobs ended since the watch began."""
        return now.less(RunCounts(*self.counted.get(version, ())))


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """One model's. Versions are the numbers of their folders; an empty string is none."""

    stable: str = ""  # takes the jobs, less the canary's share
    pinned: bool = False  # an admin said so; else the folder did: its highest, or what model.toml pins
    canary: str = ""
    percent: int = 0  # of the jobs, for the canary
    before: str = ""  # was stable before: stays loaded, as the way back
    kept: list[str] = field(default_factory=list)  # loaded besides, without jobs
    unloaded: bool = False  # none of them is wanted
    bad: dict[str, str] = field(default_factory=dict)  # version → why it was taken back; no folder brings it again
    asked: dict[str, int] = field(
        default_factory=dict
    )  # version → how often it was to be loaded: once more, and it is anew
    watch: RolloutWatch | None = None
    stamp: str = field(default="", compare=False)  # of whoever wrote it: two who take the same step take it twice

    def wants(self, choice: str) -> set[str]:
        """List the versions that are to be loaded, where the folder would choose this one."""
        if self.unloaded:
            return set()
        stable = self.stable if self.pinned else choice
        return {stable, self.canary, self.before, *self.kept} - {""}


FOLLOW_FOLDER: Final = RolloutPlan()
_PLAN: Final = TypeAdapter(RolloutPlan)


def parse_plan(text: bytes) -> RolloutPlan:
    """Read a plan, of an earlier or a later release than ours; raises ValueError."""
    return _PLAN.validate_json(text)


async def read_plans(connection: RedisClient) -> dict[str, RolloutPlan]:
    """Read all plans, by model. One that can not be read is none: the model follows its folder."""
    found: Mapping[bytes, bytes] = await connection.command("HGETALL", keys.PLANS)
    plans = {}
    for name, text in found.items():
        try:
            plans[name.decode()] = parse_plan(text)
        except ValueError as error:
            log.warning("the plan of model %.80r can not be read, it follows its folder: %s", name, error)
    return plans


async def update_plan(
    connection: RedisClient, model: str, step: Callable[[RolloutPlan], RolloutPlan]
) -> tuple[RolloutPlan, bool]:
    """Take a step from whatever the plan is; gives the plan, and whether it is another now. Raises what the step does.

    The step may be tried several times: it must change nothing else. Everybody hears of it at once.
    """
    for _ in range(MAX_CHANGE_ATTEMPTS):
        text: bytes = await connection.command("HGET", keys.PLANS, model) or b""
        try:
            plan = parse_plan(text) if text else FOLLOW_FOLDER
        except ValueError:
            plan = FOLLOW_FOLDER
        updated = step(plan)
        if updated == plan:
            return plan, False
        if await connection.script(
            "generic/compare_and_set", keys.PLANS, model, text, orjson.dumps(replace(updated, stamp=token_hex(4)))
        ):
            await connection.command("PUBLISH", keys.INVALIDATION, PLANS_CHANGED)
            return updated, True
    raise StoreUnavailable(f"the plan of model {model} is being changed by others all the time", retry_after_s=1)


# ---- what admins may do: each gives the plan that follows, or raises Refused


def load_version(plan: RolloutPlan, version: str, takes_jobs: str) -> RolloutPlan:
    """Load a version, or load it anew; it takes no jobs by that, unless nothing else does (`takes_jobs`: who does)."""
    asked = {**plan.asked, version: plan.asked.get(version, 0) + 1}
    bad = {one: why for one, why in plan.bad.items() if one != version}
    if plan.unloaded:
        return replace(plan, asked=asked, bad=bad, unloaded=False, stable=version, pinned=True)
    plan = replace(plan, asked=asked, bad=bad)
    if version in (plan.stable, plan.canary, plan.before, takes_jobs):
        return plan
    if not takes_jobs:
        return replace(plan, stable=version, pinned=True, kept=_without(plan.kept, version))
    return replace(_pin_stable(plan, takes_jobs), kept=[*_without(plan.kept, version), version])


def undo_unload(plan: RolloutPlan) -> RolloutPlan:
    """Have what was unloaded as a whole loaded again."""
    return replace(plan, unloaded=False)


def unload_version(plan: RolloutPlan, version: str, takes_jobs: str) -> RolloutPlan:
    """Let a version go, all of the model where none is named."""
    if not version:
        return replace(plan, unloaded=True, canary="", percent=0, before="", kept=[], watch=None)
    if version == takes_jobs:
        message = (
            f"version {version} takes the jobs: promote another first, or unload the model without naming a version"
        )
        raise Refused("invalid_request", message)
    if version not in (plan.canary, plan.before, *plan.kept):  # some folder chose it
        plan = _pin_stable(plan, takes_jobs)
    if version == plan.canary:
        plan = replace(plan, canary="", percent=0, watch=None)
    before = "" if version == plan.before else plan.before
    watch = None if plan.watch and version in (plan.watch.version, plan.watch.against) else plan.watch
    return replace(plan, before=before, watch=watch, kept=_without(plan.kept, version))


def set_canary_share(
    plan: RolloutPlan, version: str, percent: int, takes_jobs: str, counted: Mapping[str, RunCounts], *, now_s: float
) -> RolloutPlan:
    """Give a version so many of a hundred jobs, as the canary beside the one that takes them.

    `now_s`, here and below: the time of the queue's server.
    """
    if version == takes_jobs:
        raise Refused("invalid_request", f"version {version} takes the jobs: give a share to another, as its canary")
    plan = _pin_stable(plan, takes_jobs)
    watch = plan.watch
    if watch is None or watch.version != version:
        watch = begin_watch(version, takes_jobs, counted, now_s=now_s)
    bad = {one: why for one, why in plan.bad.items() if one != version}
    kept, before = _without(plan.kept, version), "" if version == plan.before else plan.before
    return replace(
        plan, canary=version, percent=percent, watch=watch, bad=bad, kept=kept, before=before, unloaded=False
    )


def promote(
    plan: RolloutPlan, version: str, takes_jobs: str, counted: Mapping[str, RunCounts], watch_s: float, *, now_s: float
) -> RolloutPlan:
    """Let a version take all jobs; the one that did stays loaded, as the way back."""
    bad = {one: why for one, why in plan.bad.items() if one != version}
    kept = _without(plan.kept, version)
    if version == takes_jobs:
        return replace(plan, stable=version, pinned=True, canary="", percent=0, bad=bad, kept=kept, unloaded=False)
    watch = begin_watch(version, takes_jobs, counted, watch_s, now_s=now_s) if takes_jobs and watch_s else None
    plan = replace(plan, stable=version, pinned=True, canary="", percent=0, before=takes_jobs, watch=watch)
    return replace(plan, bad=bad, kept=kept, unloaded=False)


def roll_back(plan: RolloutPlan, why: str) -> RolloutPlan:
    """End the canary or, without one, give the jobs back to the version before. `why` keeps it from coming again."""
    gone = plan.canary or plan.stable
    bad = {**plan.bad, gone: why}
    if plan.canary:
        return replace(plan, canary="", percent=0, bad=bad, watch=None)
    if not plan.before:
        raise Refused("nothing_to_roll_back", "there is no canary, and no version before this one that is still loaded")
    return replace(plan, stable=plan.before, before="", bad=bad, watch=None)


def follow_folder(_plan: RolloutPlan) -> RolloutPlan:
    """Let the folder decide again, which forgets all that was said before."""
    return FOLLOW_FOLDER


def begin_watch(
    version: str, against: str, counted: Mapping[str, RunCounts], watch_s: float | None = None, *, now_s: float
) -> RolloutWatch:
    """Begin to watch a version that is to take jobs."""
    until_s = None if watch_s is None else now_s + watch_s
    begin = {one: list(counted.get(one, RunCounts())) for one in (version, against) if one}
    return RolloutWatch(version, against, now_s, until_s, begin)


def _pin_stable(plan: RolloutPlan, takes_jobs: str) -> RolloutPlan:
    """Hold on to the version that takes the jobs: from here on an admin decides, and no folder."""
    return plan if plan.pinned or not takes_jobs else replace(plan, stable=takes_jobs, pinned=True)


def _without(versions: list[str], version: str) -> list[str]:
    return [one for one in versions if one != version]
