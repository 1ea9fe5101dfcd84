"""Rollout plans: the result of each step, concurrent steps, and how a version is judged."""

import asyncio
from dataclasses import replace

import pytest

from jobs.contract.errors import Refused
from jobs.contract.job import Outcome
from jobs.contract.lifecycle import State
from jobs.metrics import event_counters
from jobs.metrics.event_counters import RunCounts
from jobs.models import rollout_plan
from jobs.models.rollout_plan import FOLLOW_FOLDER, RolloutPlan
from jobs.redis_client import keys
from tests.integration.jobs.conftest import StoreBench

NONE: dict[str, RunCounts] = {}


def test_a_loaded_version_takes_jobs_only_if_no_other_does() -> None:
    beside = rollout_plan.load_version(FOLLOW_FOLDER, "2", takes_jobs="1")
    assert (beside.stable, beside.pinned, beside.kept) == ("1", True, ["2"])
    alone = rollout_plan.load_version(FOLLOW_FOLDER, "2", takes_jobs="")
    assert (alone.stable, alone.pinned, alone.kept) == ("2", True, [])


def test_loading_again_changes_only_the_number_of_requests() -> None:
    once = rollout_plan.load_version(FOLLOW_FOLDER, "1", takes_jobs="1")
    assert (once, once.asked) == (replace(FOLLOW_FOLDER, asked={"1": 1}), {"1": 1})
    assert rollout_plan.load_version(once, "1", takes_jobs="1").asked == {"1": 2}


def test_a_promoted_canary_keeps_its_predecessor_for_a_rollback() -> None:
    plan = rollout_plan.set_canary_share(FOLLOW_FOLDER, "2", 10, "1", NONE, now_s=0)
    assert (plan.stable, plan.canary, plan.percent, plan.wants("9")) == ("1", "2", 10, {"1", "2"})
    plan = rollout_plan.promote(plan, "2", "1", NONE, watch_s=60, now_s=0)
    assert (plan.stable, plan.canary, plan.before, plan.wants("9")) == ("2", "", "1", {"1", "2"})
    assert plan.watch is not None
    assert (plan.watch.version, plan.watch.against) == ("2", "1")
    plan = rollout_plan.roll_back(plan, "because")
    assert (plan.stable, plan.before, plan.bad, plan.wants("9")) == ("1", "", {"2": "because"}, {"1"})
    with pytest.raises(Refused, match="no earlier version"):
        rollout_plan.roll_back(plan, "again")


def test_an_ended_canary_keeps_the_rollback_version_of_the_stable_one() -> None:
    plan = rollout_plan.promote(FOLLOW_FOLDER, "2", "1", NONE, watch_s=60, now_s=0)
    plan = rollout_plan.roll_back(rollout_plan.set_canary_share(plan, "3", 5, "2", NONE, now_s=0), "worse")
    assert (plan.stable, plan.canary, plan.before, plan.bad) == ("2", "", "1", {"3": "worse"})


def test_the_stable_version_cannot_be_unloaded_or_get_a_share() -> None:
    with pytest.raises(Refused, match="promote another first"):
        rollout_plan.unload_version(FOLLOW_FOLDER, "1", takes_jobs="1")
    with pytest.raises(Refused, match="give a share to another"):
        rollout_plan.set_canary_share(FOLLOW_FOLDER, "1", 50, "1", NONE, now_s=0)


def test_a_whole_model_is_unloaded_and_loaded_as_before_or_in_another_version() -> None:
    gone = rollout_plan.unload_version(rollout_plan.promote(FOLLOW_FOLDER, "2", "1", NONE, 60, now_s=0), "", "2")
    assert gone.wants("3") == set()
    assert rollout_plan.undo_unload(gone).wants("3") == {"2"}
    assert rollout_plan.load_version(gone, "1", "").wants("3") == {"1"}


def test_a_rolled_back_version_may_be_tried_again_on_request() -> None:
    plan = replace(FOLLOW_FOLDER, bad={"2": "worse", "3": "worse"})
    assert rollout_plan.load_version(plan, "2", "1").bad == {"3": "worse"}
    assert rollout_plan.set_canary_share(plan, "2", 1, "1", NONE, now_s=0).bad == {"3": "worse"}
    assert rollout_plan.promote(plan, "2", "1", NONE, 60, now_s=0).bad == {"3": "worse"}
    assert rollout_plan.follow_folder(plan) == FOLLOW_FOLDER


async def test_no_concurrent_step_is_lost(bench: StoreBench) -> None:
    def once_more(plan: RolloutPlan) -> RolloutPlan:
        return rollout_plan.load_version(plan, "1", takes_jobs="1")

    await asyncio.gather(*(rollout_plan.update_plan(bench.store.connection, "m", once_more) for _ in range(5)))
    assert (await rollout_plan.read_plans(bench.store.connection))["m"].asked == {"1": 5}


async def test_a_step_that_changes_nothing_sends_no_notification(bench: StoreBench) -> None:
    plan, changed = await rollout_plan.update_plan(bench.store.connection, "m", lambda plan: plan)
    assert (plan, changed) == (FOLLOW_FOLDER, False)
    assert await rollout_plan.read_plans(bench.store.connection) == {}


@pytest.mark.parametrize("junk", [b"{", b"[]", b"17", b'{"watch": {"no": 1}}', b'{"watch": 3}', b'{"stable": 2}'])
async def test_an_unreadable_plan_counts_as_none(bench: StoreBench, junk: bytes) -> None:
    watched = rollout_plan.promote(FOLLOW_FOLDER, "2", "1", {"1": RunCounts(3, 1)}, watch_s=60, now_s=0)
    await bench.store.connection.command("HSET", keys.PLANS, "broken", junk, "later", b'{"stable": "2", "of": "2031"}')
    await rollout_plan.update_plan(bench.store.connection, "good", lambda _: watched)
    found = await rollout_plan.read_plans(bench.store.connection)
    assert found == {"later": RolloutPlan(stable="2"), "good": watched}


async def test_only_faults_count_against_a_version(bench: StoreBench) -> None:
    """Errors of callers, cancels and expiries do not count."""
    await bench.submit(4)
    dead, wrong, good, canceled = await bench.claim(4)
    error = b'{"code":"no","message":"no","status":422}'
    outcomes = [Outcome(job.id, job.attempt, State.FAILED, error, dead=job is dead) for job in (dead, wrong)]
    await bench.store.finish("w1", [*outcomes, *bench.succeed([good])])
    await bench.store.cancel(canceled.id, "default")
    totals = await bench.store.counts()
    runs = event_counters.get_run_counts(totals, "m", "1")
    assert (runs, runs.judged, runs.fault_share) == (RunCounts(1, 1, 0), 2, 0.5)
    assert totals["finished:m:failed"] == totals["outcomes:m:1:failed"] == 2


def test_increases_are_computed_and_a_queue_that_lost_its_data_starts_from_zero() -> None:
    assert RunCounts(5, 3, 1).less(RunCounts(2, 1, 0)) == RunCounts(3, 2, 1)
    assert RunCounts(1, 0, 0).less(RunCounts(9, 1, 0)) == RunCounts(1, 0, 0)
