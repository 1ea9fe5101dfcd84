"""Pure functions over a rollout plan and the live workers: each version's share of new jobs and its role."""

from collections.abc import Mapping
from typing import Final

from jobs.models.rollout_plan import RolloutPlan
from jobs.models.worker_registry import ClusterState, version_number

ALL_PERCENT: Final = 100.0


def compute_shares(cluster: ClusterState, plan: RolloutPlan, name: str) -> dict[str, float]:
    """Return each version's percentage of a model's new jobs; empty if no eligible version is running.

    Without a pin, shares follow the number of workers that chose each version, so that workers which change over one by
    one are loaded alike. A pinned version that no worker runs is replaced by the workers' choice.
    """
    if plan.unloaded:
        return {}
    running = list_running_versions(cluster, name)
    base = (
        {plan.stable: ALL_PERCENT}
        if plan.pinned and plan.stable in running
        else _compute_voted_shares(cluster, plan, name)
    )
    if plan.canary not in running or not plan.percent:
        return base
    if not base:
        return {plan.canary: ALL_PERCENT}
    rest = {
        version: percent * (ALL_PERCENT - plan.percent) / ALL_PERCENT
        for version, percent in base.items()
        if version != plan.canary
    }
    shares = {version: percent for version, percent in rest.items() if percent}
    return {**shares, plan.canary: ALL_PERCENT - sum(rest.values())}


def list_running_versions(cluster: ClusterState, name: str) -> list[str]:
    """Return the versions that a live worker runs and is not unloading, lowest first."""
    versions = {card["version"] for card in cluster.cards if card["name"] == name}
    leaving = {version for version in versions if cluster.serving(name, version) <= cluster.leaving(name, version)}
    return sorted(versions - leaving, key=version_number)


def find_stable(cluster: ClusterState, plan: RolloutPlan, name: str) -> str:
    """Return the version that takes a model's jobs, apart from a canary's share; "" if there is none."""
    if plan.pinned:
        return plan.stable
    votes = _compute_voted_shares(cluster, plan, name)
    return max(votes, key=lambda version: (votes[version], version_number(version)), default="")


def find_new_version(plan: RolloutPlan, votes: Mapping[str, int]) -> str:
    """Return the folder's version that replaces the stable one; "" while that is unchanged.

    A higher version counts from its first worker on; a lower one once no worker chooses the stable version any more.
    """
    choices = {version: count for version, count in votes.items() if version not in plan.bad}
    higher = [version for version in choices if version_number(version) > version_number(plan.stable)]
    if higher:
        return max(higher, key=version_number)
    if choices and plan.stable not in choices:
        return max(choices, key=lambda version: (choices[version], version_number(version)))
    return ""


def _compute_voted_shares(cluster: ClusterState, plan: RolloutPlan, name: str) -> dict[str, float]:
    running = list_running_versions(cluster, name)
    votes = {version: count for version, count in cluster.votes(name).items() if version in running}
    good = {version: count for version, count in votes.items() if version not in plan.bad} or votes
    return {version: ALL_PERCENT * count / sum(good.values()) for version, count in sorted(good.items())}


def describe_version(cluster: ClusterState, plan: RolloutPlan, name: str, version: str) -> dict[str, object]:
    """Return a version's role and its share of new jobs in percent."""
    roles = {"canary": plan.canary, "stable": find_stable(cluster, plan, name), "before": plan.before}
    role = next((role for role, at in roles.items() if at == version), "kept" if version in plan.kept else None)
    return {"role": role, "share": round(compute_shares(cluster, plan, name).get(version, 0.0), 2)}
