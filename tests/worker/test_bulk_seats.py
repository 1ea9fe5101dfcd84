"""While interactive jobs stream to a model of short runs, bulk has its share of the seats; else all that stay empty."""

import pytest

from model_runtime.tensor_spec import Port
from worker.execution.bulk_quota import REST_S, STREAM, BulkSeats
from worker.execution.inline_runs import LATELY, SHORT_S, ShortRuns

SEATS, SHARE = 64, 8


def runs(seconds: float) -> ShortRuns:
    """Those of a model that always takes so long; its inputs may say how much is to be done."""
    short_runs = ShortRuns([Port("n", "INT64", (1,))])
    for _ in range(LATELY):
        short_runs.inferred(seconds)
    return short_runs


def taken(bulk: BulkSeats, jobs_s: float, claims_s: float, seconds: float = 1.0) -> tuple[int, int]:
    """Let interactive jobs come at a steady rate, and claim as often; gives how often bulk was held, and had what."""
    held = got = came = 0
    for at in range(round(seconds * claims_s)):
        now = at / claims_s
        most = bulk.most(now)
        if most is not None:
            held, got = held + 1, got + most
            bulk.took(most)
        new = int(now * jobs_s) - came
        came += new
        bulk.came(new)
    return held, got


@pytest.mark.parametrize("claims_s", [100, 500, 3000])
def test_a_stream_keeps_its_seats_however_often_is_claimed(claims_s: int) -> None:
    """Bulk has an eighth of all seats, and an eighth of a batch in each rest."""
    jobs_s = 5000
    held, got = taken(BulkSeats(runs(SHORT_S), SEATS, SHARE), jobs_s, claims_s)
    assert held > 0.95 * claims_s
    assert got == pytest.approx(jobs_s / (SHARE - 1) + SEATS / SHARE / REST_S, rel=0.1)


@pytest.mark.parametrize("seats", [1, 4, 8, 64])
def test_a_few_callers_are_no_stream(seats: int) -> None:
    held, _ = taken(BulkSeats(runs(SHORT_S), seats, SHARE), 0.6 * STREAM / REST_S, 1000)
    assert held == 0


@pytest.mark.parametrize("seats", [1, 4])
def test_bulk_never_starves_in_a_model_of_few_seats(seats: int) -> None:
    bulk = BulkSeats(runs(SHORT_S), seats, SHARE)
    held, got = taken(bulk, 2000, 2000)
    assert held > 1900
    assert got >= 2000 / SHARE


def test_a_stream_that_ends_is_forgotten_soon() -> None:
    bulk = BulkSeats(runs(SHORT_S), SEATS, SHARE)
    bulk.came(STREAM)
    assert bulk.most(1.0) is None  # so many within a second are few
    bulk.came(STREAM)
    assert bulk.most(1.0 + REST_S / 2) is not None
    assert bulk.most(1.0 + 2 * REST_S) is None


def test_what_is_owed_is_a_batch_at_most() -> None:
    bulk = BulkSeats(runs(SHORT_S), SEATS, SHARE)
    bulk.most(1.0)
    bulk.came(1_000_000)
    assert bulk.most(1.001) == SEATS


def test_where_the_device_is_what_jobs_wait_for_no_seat_stays_empty() -> None:
    assert taken(BulkSeats(runs(1.1 * SHORT_S), SEATS, SHARE), 5000, 500) == (0, 0)


def test_where_all_seats_are_bulks_none_stays_empty() -> None:
    assert taken(BulkSeats(runs(SHORT_S), SEATS, 1), 5000, 500) == (0, 0)


def test_a_few_runs_that_were_held_up_change_nothing() -> None:
    short_runs = runs(0)
    for _ in range(LATELY // 2 - 1):
        short_runs.inferred(60)
    assert short_runs.are_the_rule
    for _ in range(LATELY):
        short_runs.inferred(60)
    assert not short_runs.are_the_rule
