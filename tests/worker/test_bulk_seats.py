"""While interactive jobs stream to a model of short runs, bulk has its share of the seats; else all that stay empty."""

from worker.bulk_seats import BulkSeats
from worker.models.port import Port
from worker.short_runs import LATELY, RIDER_S, SHORT_S, ShortRuns

SEATS, SHARE = 64, 8
STREAM = SEATS // SHARE


def seats(seconds: float, riders: int = 1) -> BulkSeats:
    """The seats of a model whose runs take so long; its inputs may say how much is to be done."""
    runs = ShortRuns([Port("n", "INT64", (1,))])
    for _ in range(LATELY):
        runs.took(seconds, riders)
    return BulkSeats(runs, SEATS, SHARE)


def test_a_stream_of_interactive_jobs_keeps_its_seats() -> None:
    bulk = seats(SHORT_S)
    bulk.came(STREAM - 1)
    bulk.came(1)
    assert not bulk.fill()
    assert bulk.fill()  # nobody came since


def test_a_few_do_not() -> None:
    bulk = seats(SHORT_S)
    bulk.came(STREAM - 1)
    assert bulk.fill()
    bulk.came(STREAM - 1)
    assert bulk.fill()


def test_where_the_device_is_the_larger_part_no_seat_stays_empty() -> None:
    bulk = seats(SHORT_S * 1.01)
    bulk.came(SEATS)
    assert bulk.fill()


def test_a_large_batch_may_take_longer() -> None:
    riders = 64
    for seconds, fills in ((RIDER_S * riders, False), (RIDER_S * riders * 1.01, True)):
        bulk = seats(seconds, riders)
        bulk.came(SEATS)
        assert bulk.fill() is fills


def test_one_run_that_was_held_up_changes_nothing() -> None:
    runs = ShortRuns([])
    for _ in range(LATELY):
        runs.took(0, 1)
    runs.took(60, 1)
    assert runs.are_minor
    for _ in range(LATELY):
        runs.took(60, 1)
    assert not runs.are_minor


def test_a_model_of_one_seat_has_a_stream_too() -> None:
    runs = ShortRuns([])
    for _ in range(LATELY):
        runs.took(0, 1)
    bulk = BulkSeats(runs, 1, SHARE)
    assert bulk.fill()
    bulk.came(1)
    assert not bulk.fill()
