"""Which version of a model a new job is for: what is wanted (the plan) laid over what is there (the workers). Pure."""

from collections.abc import Mapping
from typing import Final

from jobs.models.rollout_plan import Plan
from jobs.models.worker_registry import Announced, number

ALL: Final = 100.0


def shares(announced: Announced, plan: Plan, name: str) -> dict[str, float]:
    """Give each version's percentage of a model's new jobs; empty where no version that may have them is running.

    In a folder's hands versions have jobs by the number of workers that chose them, so that workers which change over
    one after the other are loaded alike. For a pinned version that nobody runs stands what workers would choose.
    """
    if plan.unloaded:
        return {}
    running = running_versions(announced, name)
    base = {plan.stable: ALL} if plan.pinned and plan.stable in running else _by_votes(announced, plan, name)
    if plan.canary not in running or not plan.percent:
        return base
    if not base:
        return {plan.canary: ALL}
    rest = {one: percent * (ALL - plan.percent) / ALL for one, percent in base.items() if one != plan.canary}
    return {**{one: percent for one, percent in rest.items() if percent}, plan.canary: ALL - sum(rest.values())}


def running_versions(announced: Announced, name: str) -> list[str]:
    """List the versions that some live worker runs, and goes on to."""
    versions = {card["version"] for card in announced.cards if card["name"] == name}
    gone = {one for one in versions if announced.serving(name, one) <= announced.leaving(name, one)}
    return sorted(versions - gone, key=number)


def stable(announced: Announced, plan: Plan, name: str) -> str:
    """Give the version that takes a model's jobs, less a canary's share; an empty string where none does."""
    if plan.pinned:
        return plan.stable
    votes = _by_votes(announced, plan, name)
    return max(votes, key=lambda one: (votes[one], number(one)), default="")


def risen(plan: Plan, votes: Mapping[str, int]) -> str:
    """Give the version that a folder has brought in place of the stable one; an empty string while that is the same.

    A higher one counts from its first worker on, a lower one when no worker is left that chose the other.
    """
    choices = {one: count for one, count in votes.items() if one not in plan.bad}
    higher = [one for one in choices if number(one) > number(plan.stable)]
    if higher:
        return max(higher, key=number)
    if choices and plan.stable not in choices:
        return max(choices, key=lambda one: (choices[one], number(one)))
    return ""


def _by_votes(announced: Announced, plan: Plan, name: str) -> dict[str, float]:
    running = running_versions(announced, name)
    votes = {one: count for one, count in announced.votes(name).items() if one in running}
    good = {one: count for one, count in votes.items() if one not in plan.bad} or votes
    return {one: ALL * count / sum(good.values()) for one, count in sorted(good.items())}


def standing(announced: Announced, plan: Plan, name: str, version: str) -> dict[str, object]:
    """Say what a version is for: its role, and its share of new jobs in percent."""
    roles = {"canary": plan.canary, "stable": stable(announced, plan, name), "before": plan.before}
    role = next((role for role, whose in roles.items() if whose == version), "kept" if version in plan.kept else None)
    return {"role": role, "share": round(shares(announced, plan, name).get(version, 0.0), 2)}
