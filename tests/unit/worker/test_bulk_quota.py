"""While interactive jobs stream to a fast model, bulk has its share of the slots; otherwise all free ones."""

import pytest

from model_runtime.tensor_spec import TensorSpec
from worker.execution.bulk_quota import CLAIM_INTERVAL_S, STREAM_JOBS, BulkSlotShare
from worker.execution.inline_runs import RECENT_RUNS, SHORT_S, InlineRunPolicy

SLOTS, SHARE = 64, 8


def runs(seconds: float) -> InlineRunPolicy:
    """The policy of a model with constant run time; its inputs may control the amount of work."""
    inline_policy = InlineRunPolicy([TensorSpec("n", "INT64", (1,))])
    for _ in range(RECENT_RUNS):
        inline_policy.record_inference(seconds)
    return inline_policy


def taken(bulk: BulkSlotShare, jobs_s: float, claims_s: float, seconds: float = 1.0) -> tuple[int, int]:
    """Add interactive jobs and claim at steady rates; return how often bulk was limited, and its total."""
    held = got = record_interactive = 0
    for at in range(round(seconds * claims_s)):
        now = at / claims_s
        most = bulk.bulk_limit(now)
        if most is not None:
            held, got = held + 1, got + most
            bulk.record_bulk(most)
        new = int(now * jobs_s) - record_interactive
        record_interactive += new
        bulk.record_interactive(new)
    return held, got


@pytest.mark.parametrize("claims_s", [100, 500, 3000])
def test_a_stream_keeps_its_slots_at_any_claim_rate(claims_s: int) -> None:
    """Bulk has an eighth of all slots, and an eighth of a batch in each rest."""
    jobs_s = 5000
    held, got = taken(BulkSlotShare(runs(SHORT_S), SLOTS, SHARE), jobs_s, claims_s)
    assert held > 0.95 * claims_s
    assert got == pytest.approx(jobs_s / (SHARE - 1) + SLOTS / SHARE / CLAIM_INTERVAL_S, rel=0.1)


@pytest.mark.parametrize("slots", [1, 4, 8, 64])
def test_a_few_callers_are_no_stream(slots: int) -> None:
    held, _ = taken(BulkSlotShare(runs(SHORT_S), slots, SHARE), 0.6 * STREAM_JOBS / CLAIM_INTERVAL_S, 1000)
    assert held == 0


@pytest.mark.parametrize("slots", [1, 4])
def test_bulk_never_starves_in_a_model_of_few_slots(slots: int) -> None:
    bulk = BulkSlotShare(runs(SHORT_S), slots, SHARE)
    held, got = taken(bulk, 2000, 2000)
    assert held > 1900
    assert got >= 2000 / SHARE


def test_a_stream_that_ends_is_forgotten_soon() -> None:
    bulk = BulkSlotShare(runs(SHORT_S), SLOTS, SHARE)
    bulk.record_interactive(STREAM_JOBS)
    assert bulk.bulk_limit(1.0) is None  # so many within a second are few
    bulk.record_interactive(STREAM_JOBS)
    assert bulk.bulk_limit(1.0 + CLAIM_INTERVAL_S / 2) is not None
    assert bulk.bulk_limit(1.0 + 2 * CLAIM_INTERVAL_S) is None


def test_at_most_one_batch_is_owed_to_bulk() -> None:
    bulk = BulkSlotShare(runs(SHORT_S), SLOTS, SHARE)
    bulk.bulk_limit(1.0)
    bulk.record_interactive(1_000_000)
    assert bulk.bulk_limit(1.001) == SLOTS


def test_no_slot_stays_empty_where_jobs_wait_for_the_device() -> None:
    assert taken(BulkSlotShare(runs(1.1 * SHORT_S), SLOTS, SHARE), 5000, 500) == (0, 0)


def test_no_slot_stays_empty_where_bulk_has_all_slots() -> None:
    assert taken(BulkSlotShare(runs(SHORT_S), SLOTS, 1), 5000, 500) == (0, 0)


def test_a_few_delayed_runs_change_nothing() -> None:
    inline_policy = runs(0)
    for _ in range(RECENT_RUNS // 2 - 1):
        inline_policy.record_inference(60)
    assert inline_policy.is_usual
    for _ in range(RECENT_RUNS):
        inline_policy.record_inference(60)
    assert not inline_policy.is_usual
