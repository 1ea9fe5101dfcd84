"""Which versions of a model a worker should run, by its folder, its plan and what it runs already. Pure."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from jobs.models.rollout_plan import RolloutPlan
from worker.versions.folder_snapshot import ModelVersions


class DesiredVersions(NamedTuple):
    """`choice`: the version that is to take the jobs, as far as this worker runs one that may; '' = none."""

    choice: str
    versions: set[str]


def desired_versions_of(
    model_versions: ModelVersions | None,
    plan: RolloutPlan,
    running: Collection[str],
    choice: str,
    may_load: Callable[[str], bool],
) -> DesiredVersions:
    """Say what to run of a model. `choice`: the last one; it stays until the next one runs, however long that takes.

    `may_load`: whether a version lies in the folder and has not shown yet that it can not be loaded; for one that can
    not be stands the next lower one.
    """
    if plan.unloaded:
        return DesiredVersions("", set())
    best = model_versions.best(plan.bad) if model_versions else []
    candidates = [plan.stable, *best] if plan.pinned else best
    target = next((one for one in candidates if one in running or may_load(one)), "")
    if target in running:
        choice = target
    elif choice not in running or (model_versions is None and not plan.pinned):
        choice = ""
    return DesiredVersions(choice, (plan.wants(target) | {target, choice}) - {""})
