"""Which version of a model a new job is for: what is wanted (the plan) laid over what is there (the workers). Pure."""

from collections.abc import Mapping
from typing import Final

from jobs.models.rollout_plan import RolloutPlan
from jobs.models.worker_registry import ClusterState, version_number

ALL_PERCENT: Final = 100.0


def compute_shares(cluster: ClusterState, plan: RolloutPlan, name: str) -> dict[str, float]:
    """Give each version's percentage of a model's new jobs; empty where no version that may have them is running.

    In a folder's hands versions have jobs by the number of workers that chose them, so that workers which change over
    one after the other are loaded alike. For a pinned version that nobody runs stands what workers would choose.
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
        one: percent * (ALL_PERCENT - plan.percent) / ALL_PERCENT for one, percent in base.items() if one != plan.canary
    }
    return {**{one: percent for one, percent in rest.items() if percent}, plan.canary: ALL_PERCENT - sum(rest.values())}


def list_running_versions(cluster: ClusterState, name: str) -> list[str]:
    """List the versions that some live worker runs, and goes on to."""
    versions = {card["version"] for card in cluster.cards if card["name"] == name}
    gone = {one for one in versions if cluster.serving(name, one) <= cluster.leaving(name, one)}
    return sorted(versions - gone, key=version_number)


def find_stable(cluster: ClusterState, plan: RolloutPlan, name: str) -> str:
    """Give the version that takes a model's jobs, less a canary's share; an empty string where none does."""
    if plan.pinned:
        return plan.stable
    votes = _compute_voted_shares(cluster, plan, name)
    return max(votes, key=lambda one: (votes[one], version_number(one)), default="")


def find_new_version(plan: RolloutPlan, votes: Mapping[str, int]) -> str:
    """Give the version that a folder has brought in place of the stable one; an empty string while that is the same.

    A higher one counts from its first worker on, a lower one when no worker is left that chose the other.
    """
    choices = {one: count for one, count in votes.items() if one not in plan.bad}
    higher = [one for one in choices if version_number(one) > version_number(plan.stable)]
    if higher:
        return max(higher, key=version_number)
    if choices and plan.stable not in choices:
        return max(choices, key=lambda one: (choices[one], version_number(one)))
    return ""


def _compute_voted_shares(cluster: ClusterState, plan: RolloutPlan, name: str) -> dict[str, float]:
    running = list_running_versions(cluster, name)
    votes = {one: count for one, count in cluster.votes(name).items() if one in running}
    good = {one: count for one, count in votes.items() if one not in plan.bad} or votes
    return {one: ALL_PERCENT * count / sum(good.values()) for one, count in sorted(good.items())}


def describe_version(cluster: ClusterState, plan: RolloutPlan, name: str, version: str) -> dict[str, object]:
    """Say what a version is for: its role, and its share of new jobs in percent."""
    roles = {"canary": plan.canary, "stable": find_stable(cluster, plan, name), "before": plan.before}
    role = next((role for role, whose in roles.items() if whose == version), "kept" if version in plan.kept else None)
    return {"role": role, "share": round(compute_shares(cluster, plan, name).get(version, 0.0), 2)}
