"""Which versions of a model a worker should run, by its folder, its plan and what it runs already. Pure."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from jobs.models.rollout_plan import Plan
from worker.versions.folder_snapshot import Shelved


class Wish(NamedTuple):
    """`choice`: the version that is to take the jobs, as far as this worker runs one that may; '' = none."""

    choice: str
    versions: set[str]


def of_model(
    shelved: Shelved | None, plan: Plan, running: Collection[str], choice: str, may_load: Callable[[str], bool]
) -> Wish:
    """Say what to run of a model. `choice`: the last one; it stays until the next one runs, however long that takes.

    `may_load`: whether a version lies in the folder and has not shown yet that it can not be loaded; for one that can
    not be stands the next lower one.
    """
    if plan.unloaded:
        return Wish("", set())
    best = shelved.best(plan.bad) if shelved else []
    candidates = [plan.stable, *best] if plan.pinned else best
    target = next((one for one in candidates if one in running or may_load(one)), "")
    if target in running:
        choice = target
    elif choice not in running or (shelved is None and not plan.pinned):
        choice = ""
    return Wish(choice, (plan.wants(target) | {target, choice}) - {""})
