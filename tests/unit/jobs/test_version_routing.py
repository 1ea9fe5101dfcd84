"""The version that a new job gets, from the rollout plan and the versions that workers run."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from jobs.models import version_routing
from jobs.models.rollout_plan import FOLLOW_FOLDER, RolloutPlan
from jobs.models.worker_registry import ClusterState, WorkerReport


def worker(chosen: str, *runs: str, leaving: Sequence[str] = ()) -> WorkerReport:
    """A worker that runs some versions of `m`, and would give the jobs to one of them."""
    models, going = [f"m {one}" for one in runs], [f"m {one}" for one in leaving]
    return WorkerReport("w", 1, "here", models, chosen={"m": chosen}, leaving=going)


def announced(*workers: WorkerReport) -> ClusterState:
    cards: list[dict[str, Any]] = [{"name": "m", "version": one} for one in "123"]
    return ClusterState(cards, list(workers))


@pytest.mark.parametrize(
    ("workers", "plan", "shares"),
    [
        pytest.param([], FOLLOW_FOLDER, {}, id="nobody is there"),
        pytest.param([worker("2", "1", "2")], FOLLOW_FOLDER, {"2": 100}, id="a folder's choice"),
        pytest.param(
            [worker("1", "1"), worker("2", "1", "2")], FOLLOW_FOLDER, {"1": 50, "2": 50}, id="one changed over"
        ),
        pytest.param(
            [worker("2", "1", "2")], RolloutPlan(bad={"2": "x"}), {"2": 100}, id="a bad one, and nothing better"
        ),
        pytest.param(
            [worker("1", "1"), worker("2", "2")], RolloutPlan(bad={"2": "x"}), {"1": 100}, id="a bad one's vote"
        ),
        pytest.param([worker("2", "1", "2")], RolloutPlan(stable="1", pinned=True), {"1": 100}, id="pinned"),
        pytest.param(
            [worker("2", "2")], RolloutPlan(stable="1", pinned=True), {"2": 100}, id="pinned, and nobody has it"
        ),
        pytest.param([worker("1", "1", "2")], RolloutPlan("1", True, "2", 10), {"1": 90, "2": 10}, id="a canary"),
        pytest.param([worker("1", "1")], RolloutPlan("1", True, "2", 10), {"1": 100}, id="a canary that is not there"),
        pytest.param([worker("1", "2")], RolloutPlan("1", True, "2", 10), {"2": 100}, id="a canary alone"),
        pytest.param(
            [worker("1", "1", "2")], RolloutPlan("1", True, "2", 100), {"2": 100}, id="a canary with all of it"
        ),
        pytest.param([worker("1", "1", "2")], RolloutPlan("1", True, "2", 0), {"1": 100}, id="a canary with nothing"),
        pytest.param([worker("1", "1")], RolloutPlan("1", True, unloaded=True), {}, id="unloaded"),
        pytest.param([worker("", "1", leaving=["1"])], FOLLOW_FOLDER, {}, id="leaving"),
        pytest.param(
            [worker("2", "1", "2", leaving=["1"])], RolloutPlan("1", True), {"2": 100}, id="pinned, and leaving"
        ),
        pytest.param([WorkerReport("w", 1, "h", ["m 1", "m 2"])], FOLLOW_FOLDER, {"2": 100}, id="an older release"),
        pytest.param([WorkerReport("w", 1, "h", ["m x", "m", "m 2"])], FOLLOW_FOLDER, {"2": 100}, id="junk"),
    ],
)
def test_shares(workers: list[WorkerReport], plan: RolloutPlan, shares: dict[str, float]) -> None:
    assert version_routing.compute_shares(announced(*workers), plan, "m") == shares


def test_shares_add_up_for_any_mix() -> None:
    found = announced(worker("1", "1", "3"), worker("2", "2"), worker("2", "2", "3"))
    shares = version_routing.compute_shares(found, replace(FOLLOW_FOLDER, canary="3", percent=7), "m")
    assert shares == pytest.approx({"1": 31, "2": 62, "3": 7})
    assert sum(shares.values()) == pytest.approx(100)


@pytest.mark.parametrize(
    ("stable", "votes", "risen"),
    [
        ("", {"1": 2}, "1"),
        ("1", {"1": 2}, ""),
        ("1", {"1": 9, "2": 1}, "2"),
        ("2", {"1": 9, "2": 1}, ""),
        ("2", {"1": 9}, "1"),
        ("2", {}, ""),
        ("1", {"1": 1, "9": 3}, ""),
        ("9", {"1": 1, "9": 3}, "1"),
    ],
)
def test_a_higher_version_counts_from_its_first_worker_on_a_lower_one_when_no_other_is_left(
    stable: str, votes: dict[str, int], risen: str
) -> None:
    assert version_routing.find_new_version(RolloutPlan(stable=stable, bad={"9": "it was worse"}), votes) == risen
