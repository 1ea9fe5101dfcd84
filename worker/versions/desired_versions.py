"""Computes the versions of a model that a worker should run, from its folder, its plan and the running versions."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from jobs.models.rollout_plan import RolloutPlan
from worker.versions.folder_snapshot import ModelVersions


class DesiredVersions(NamedTuple):
    """Versions to run. `choice`: the running version that should receive the jobs, or '' if none."""

    choice: str
    versions: set[str]


def desired_versions_of(
    model_versions: ModelVersions | None,
    plan: RolloutPlan,
    running: Collection[str],
    choice: str,
    may_load: Callable[[str], bool],
) -> DesiredVersions:
    """Return the versions of a model to run. `choice`: the last choice, which stays until the next version runs.

    `may_load`: whether a version is in the folder and has not failed to load. The next lower version replaces one that
    may not be loaded.
    """
    if plan.unloaded:
        return DesiredVersions("", set())
    best = model_versions.best(plan.bad) if model_versions else []
    candidates = [plan.stable, *best] if plan.pinned else best
    target = next((version for version in candidates if version in running or may_load(version)), "")
    if target in running:
        choice = target
    elif choice not in running or (model_versions is None and not plan.pinned):
        choice = ""
    return DesiredVersions(choice, (plan.wants(target) | {target, choice}) - {""})
