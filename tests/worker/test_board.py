"""Who is aboard: by claim, so that a job this worker claims again is another rider."""

import asyncio
import time

import pytest

from batching.batcher import BatchLimits
from batching.memory_limits import Ceilings
from jobs.contract.job import Claimed
from worker.execution.pending_items import Board, Rider

pytestmark = pytest.mark.anyio


def rider(job_id: str = "a", attempt: int = 1, expires_at: float = float("inf")) -> Rider:
    return Rider(Claimed(job_id, attempt, "raw", b"", b"{}", 0, 0, 0), {}, claimed_at=0.0, expires_at=expires_at)


async def test_room_is_made_by_departing_not_by_finishing() -> None:
    board = Board(BatchLimits(max_items=2))
    riders = [rider("a"), rider("b")]
    for one in riders:
        board.board(one)
    assert board.room == 0
    for one in riders:
        board.seat(one)
    batch = board.depart()
    assert batch is not None
    assert batch.items == riders
    assert board.room == 2
    assert board.held() == [one.job for one in riders]
    board.leave([one.job for one in riders])
    assert board.is_empty


async def test_a_later_claim_of_the_same_job_takes_the_earlier_ones_seat() -> None:
    board = Board(BatchLimits(max_items=8))
    old, new = rider(attempt=1), rider(attempt=2)
    board.board(old)
    board.board(new)
    board.seat(old)  # its decoding ends late
    board.seat(new)
    batch = board.depart()
    assert batch is not None
    assert batch.items == [new]


async def test_the_earlier_claims_end_does_not_touch_the_later_one() -> None:
    board = Board(BatchLimits(max_items=8))
    old, new = rider(attempt=1), rider(attempt=2)
    board.board(old)
    board.seat(old)
    board.depart()
    board.board(new)
    board.leave([old.job])
    assert board.held() == [new.job]


async def test_a_lost_rider_does_not_depart() -> None:
    board = Board(BatchLimits(max_items=8))
    lost, kept = rider("a"), rider("b")
    for one in (lost, kept):
        board.board(one)
        board.seat(one)
    board.leave([lost.job])
    batch = board.depart()
    assert batch is not None
    assert batch.items == [kept]


async def test_closing_ends_the_wait_for_room_and_for_company() -> None:
    board = Board(BatchLimits(max_items=2, max_wait_s=3600))
    one = rider()
    board.board(one)
    board.seat(one)
    assert board.depart() is None
    board.board(rider("b"))
    waiting = asyncio.create_task(board.until_room())
    board.close()
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(board.until_due(), 1)
    assert board.depart() is not None


async def test_who_is_overdue_leaves_the_board_unrun_and_stays_ours_until_that_is_written() -> None:
    board = Board(BatchLimits(max_items=4))
    late, early = rider("late", expires_at=5.0), rider("early", expires_at=50.0)
    for one in (late, early):
        board.board(one)
        board.seat(one)
    assert board.overdue(now=5.0) == [late]
    assert {job.id for job in board.held()} == {"late", "early"}
    batch = board.depart()
    assert batch is not None
    assert batch.items == [early]


async def test_nobody_rides_whose_job_was_dismissed() -> None:
    board = Board(BatchLimits(max_items=4))
    one, other = rider("one"), rider("other")
    for each in (one, other):
        board.board(each)
        board.seat(each)
    board.depart()
    board.dismiss("one")
    assert (board.is_riding(one), board.is_riding(other)) == (False, True)


async def test_a_group_that_memory_has_no_room_for_rides_in_smaller_batches() -> None:
    ceilings = Ceilings(4)
    board = Board(BatchLimits(max_items=4), ceilings)
    ceilings.too_many(None, 4, time.monotonic())
    for name in "abc":
        board.board(one := rider(name))
        board.seat(one)
    sizes = [len(batch.items) for batch in (board.depart(), board.depart()) if batch]
    assert sizes == [2, 1]
