"""Pending items are kept by claim: a second claim of the same job is another item."""

import asyncio
import time

import numpy as np
import pytest

from batching.batcher import BatchLimits
from batching.memory_limits import MemoryLimits
from jobs.contract.job import ClaimedJob
from worker.execution.pending_items import PendingItems, WorkItem
from worker.execution.row_joiner import RowJoiner

pytestmark = pytest.mark.anyio


def item(job_id: str = "a", attempt: int = 1, expires_at: float = float("inf")) -> WorkItem:
    return WorkItem(ClaimedJob(job_id, attempt, "raw", b"", b"{}", 0, 0, 0), {}, claimed_at=0.0, expires_at=expires_at)


def rows_of(job_id: str, rows: int) -> list[WorkItem]:
    job, joiner = ClaimedJob(job_id, 1, "raw", b"", b"{}", 0, 0, 0, rows=rows), RowJoiner(rows, 1000)
    return [WorkItem(job, {}, 0.0, row=row, joiner=joiner) for row in range(rows)]


def block_of(job_id: str, rows: int) -> WorkItem:
    job, x = ClaimedJob(job_id, 1, "raw", b"", b"{}", 0, 0, 0, rows=rows), np.arange(rows)
    joiner = RowJoiner(rows, 1000)
    return WorkItem(job, {}, 0.0, arrays={"x": x}, row=0, joiner=joiner, size=rows, is_stacked=True)


async def test_taking_a_batch_makes_room_before_its_jobs_finish() -> None:
    pending = PendingItems(BatchLimits(max_items=2))
    items = [item("a"), item("b")]
    for one in items:
        pending.add(one)
    assert pending.room == 0
    for one in items:
        pending.mark_ready(one)
    batch = pending.next_batch()
    assert batch is not None
    assert batch.items == items
    assert pending.room == 2
    assert pending.held() == [one.job for one in items]
    pending.discard([one.job for one in items])
    assert pending.is_empty


async def test_a_later_claim_of_the_same_job_replaces_the_earlier_one() -> None:
    pending = PendingItems(BatchLimits(max_items=8))
    old, new = item(attempt=1), item(attempt=2)
    pending.add(old)
    pending.add(new)
    pending.mark_ready(old)  # its decoding ends late
    pending.mark_ready(new)
    batch = pending.next_batch()
    assert batch is not None
    assert batch.items == [new]


async def test_the_earlier_claims_end_does_not_touch_the_later_one() -> None:
    pending = PendingItems(BatchLimits(max_items=8))
    old, new = item(attempt=1), item(attempt=2)
    pending.add(old)
    pending.mark_ready(old)
    pending.next_batch()
    pending.add(new)
    pending.discard([old.job])
    assert pending.held() == [new.job]


async def test_a_lost_item_is_not_batched() -> None:
    pending = PendingItems(BatchLimits(max_items=8))
    lost, kept = item("a"), item("b")
    for one in (lost, kept):
        pending.add(one)
        pending.mark_ready(one)
    pending.discard([lost.job])
    batch = pending.next_batch()
    assert batch is not None
    assert batch.items == [kept]


async def test_closing_ends_the_waits_for_room_and_for_a_fuller_batch() -> None:
    pending = PendingItems(BatchLimits(max_items=2, max_wait_s=3600))
    one = item()
    pending.add(one)
    pending.mark_ready(one)
    assert pending.next_batch() is None
    pending.add(item("b"))
    waiting = asyncio.create_task(pending.wait_for_room())
    pending.close()
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(pending.wait_until_due(), 1)
    assert pending.next_batch() is not None


async def test_an_overdue_item_is_not_run_and_is_held_until_its_end_is_written() -> None:
    pending = PendingItems(BatchLimits(max_items=4))
    late, early = item("late", expires_at=5.0), item("early", expires_at=50.0)
    for one in (late, early):
        pending.add(one)
        pending.mark_ready(one)
    assert pending.overdue(now=5.0) == [late]
    assert {job.id for job in pending.held()} == {"late", "early"}
    batch = pending.next_batch()
    assert batch is not None
    assert batch.items == [early]


async def test_an_item_whose_job_was_canceled_is_not_run() -> None:
    pending = PendingItems(BatchLimits(max_items=4))
    one, other = item("one"), item("other")
    for each in (one, other):
        pending.add(each)
        pending.mark_ready(each)
    pending.next_batch()
    pending.cancel("one")
    assert (pending.is_running(one), pending.is_running(other)) == (False, True)


async def test_a_group_that_does_not_fit_into_memory_runs_in_smaller_batches() -> None:
    ceilings = MemoryLimits(4)
    pending = PendingItems(BatchLimits(max_items=4), ceilings)
    ceilings.too_many(None, 4, time.monotonic())
    for name in "abc":
        pending.add(one := item(name))
        pending.mark_ready(one)
    sizes = [len(batch.items) for batch in (pending.next_batch(), pending.next_batch()) if batch]
    assert sizes == [2, 1]


async def test_each_row_of_a_job_takes_a_slot_and_the_job_is_held_once() -> None:
    pending = PendingItems(BatchLimits(max_items=4))
    rows = rows_of("many", 3)
    pending.add(*rows)
    assert (pending.room, pending.held()) == (1, [rows[0].job])
    pending.mark_ready(*rows)
    batch = pending.next_batch()
    assert batch is not None
    assert batch.items == rows
    assert (pending.room, pending.held(), [*map(pending.is_running, rows)]) == (4, [rows[0].job], [True] * 3)
    pending.discard([rows[0].job])
    assert pending.is_empty
    assert [*map(pending.is_running, rows)] == [False] * 3


async def test_a_job_with_more_rows_than_slots_waits_for_room_until_enough_have_left() -> None:
    pending = PendingItems(BatchLimits(max_items=2))
    rows = rows_of("many", 5)
    pending.add(*rows)
    pending.mark_ready(*rows)
    rooms = []
    while batch := pending.next_batch():
        rooms.append((len(batch.items), pending.room))
    assert rooms == [(2, -1), (2, 1), (1, 2)]
    assert pending.held() == [rows[0].job]


async def test_the_rows_of_a_job_that_has_an_outcome_run_no_more_and_it_is_held_until_the_outcome_is_written() -> None:
    pending = PendingItems(BatchLimits(max_items=2))
    rows, other = rows_of("many", 5), item("other")
    pending.add(*rows, other)
    pending.mark_ready(*rows[:4], other)
    pending.next_batch()
    pending.withdraw(rows[0].job)
    pending.mark_ready(rows[4])  # it was still preprocessed
    batch = pending.next_batch()
    assert batch is not None
    assert batch.items == [other]
    assert pending.held() == [rows[0].job, other.job]
    pending.discard([rows[0].job, other.job])
    assert pending.is_empty


async def test_cancelling_a_job_drops_all_its_rows() -> None:
    pending = PendingItems(BatchLimits(max_items=2))
    rows, other = rows_of("many", 5), item("other")
    pending.add(*rows, other)
    pending.mark_ready(*rows, other)
    pending.next_batch()
    pending.cancel("many")
    batch = pending.next_batch()
    assert batch is not None
    assert batch.items == [other]
    assert pending.held() == [other.job]


async def test_a_later_claim_of_a_job_replaces_all_rows_of_the_earlier_one() -> None:
    pending = PendingItems(BatchLimits(max_items=8))
    old = rows_of("many", 3)
    new = rows_of("many", 3)
    for one in new:
        one.job = one.job._replace(attempt=2)
    pending.add(*old)
    pending.add(*new)
    pending.mark_ready(*old, *new)
    batch = pending.next_batch()
    assert batch is not None
    assert batch.items == new


async def test_stacked_rows_take_a_slot_each_and_are_cut_where_a_batch_is_full() -> None:
    pending = PendingItems(BatchLimits(max_items=4))
    block, other = block_of("many", 10), item("other")
    pending.add(block, other)
    assert (pending.room, pending.held()) == (-7, [block.job, other.job])
    pending.mark_ready(block, other)
    taken, rooms = [], []
    while batch := pending.next_batch():
        assert all(map(pending.is_running, batch.items))
        taken.append([(each.job.id, each.row, [*each.arrays.get("x", ())]) for each in batch.items])
        rooms.append(pending.room)
    assert taken == [
        [("many", 0, [0, 1, 2, 3])],
        [("many", 4, [4, 5, 6, 7])],
        [("many", 8, [8, 9]), ("other", None, [])],
    ]
    assert rooms == [-3, 1, 4]
    assert {job.id for job in pending.held()} == {"many", "other"}
    pending.discard([block.job, other.job])
    assert pending.is_empty


@pytest.mark.parametrize("end", ["cancel", "withdraw", "overdue"])
async def test_the_rest_of_a_job_that_was_cut_runs_no_more_once_it_has_ended(end: str) -> None:
    pending = PendingItems(BatchLimits(max_items=4))
    block = block_of("many", 10)
    block.expires_at = 5.0
    pending.add(block)
    pending.mark_ready(block)
    first = pending.next_batch()
    assert first is not None
    if end == "cancel":
        pending.cancel("many")
    elif end == "withdraw":
        pending.withdraw(block.job)
    else:
        assert [(rest.row, rest.size) for rest in pending.overdue(now=5.0)] == [(4, 6)]
    assert pending.next_batch() is None
    assert pending.room == 4
    assert pending.held() == ([] if end == "cancel" else [block.job])
    assert pending.is_running(first.items[0]) == (end != "cancel")
    pending.discard([block.job])
    assert pending.is_empty


async def test_the_rows_of_a_job_that_differ_take_the_place_of_its_item() -> None:
    pending = PendingItems(BatchLimits(max_items=2))
    job, joiner = ClaimedJob("many", 1, "raw", b"", b"{}", 0, 0, 0, rows=3), RowJoiner(3, 1000)
    whole = WorkItem(job, {}, 0.0, row=0, joiner=joiner, size=3)
    pending.add(whole)
    whole.singles = [WorkItem(job, {}, 0.0, group=row % 2, row=row, joiner=joiner) for row in range(3)]
    pending.mark_ready(whole)
    assert (pending.room, pending.held()) == (-1, [job])
    batches = [pending.next_batch(), pending.next_batch()]
    assert [[one.row for one in batch.items] for batch in batches if batch] == [[0, 2], [1]]
    assert (pending.room, pending.held()) == (2, [job])
    pending.discard([job])
    assert pending.is_empty
    pending.add(whole)
    pending.cancel("many")
    pending.mark_ready(whole)  # it was still preprocessed
    assert (pending.is_empty, pending.next_batch(), pending.room) == (True, None, 2)


async def test_the_rest_of_an_earlier_claim_does_not_touch_a_later_one() -> None:
    pending = PendingItems(BatchLimits(max_items=4))
    old, new = block_of("many", 6), block_of("many", 6)
    new.job = new.job._replace(attempt=2)
    pending.add(old)
    pending.mark_ready(old)
    pending.next_batch()  # 4 of its rows
    pending.add(new)
    pending.mark_ready(new)
    mixed = pending.next_batch()
    assert mixed is not None
    assert [(one.job.attempt, one.row, one.size) for one in mixed.items] == [(1, 4, 2), (2, 0, 2)]
    pending.discard([old.job])
    assert [*map(pending.is_running, mixed.items)] == [False, True]
    assert (pending.room, pending.held()) == (0, [new.job])
    pending.discard([new.job])
    assert (pending.room, pending.is_empty) == (4, True)
