"""Waiting with a time limit and for events, and how cancellation ends it."""

import asyncio

import pytest

from jobs.redis_client.event_wait import cancel_all, next_turn_s, wait_for_event
from tests.support.waiting import pass_time

pytestmark = pytest.mark.anyio


async def test_a_wait_returns_whether_the_event_was_set() -> None:
    event = asyncio.Event()
    assert await wait_for_event(event, 0.01) is False
    event.set()
    assert await wait_for_event(event, None) is True


@pytest.mark.parametrize("ticks", range(5))
async def test_a_cancellation_at_the_same_time_as_the_event_is_not_lost(ticks: int) -> None:
    """Otherwise the loop would go on, and its canceler would wait for ever."""
    event = asyncio.Event()

    async def loop() -> None:
        while True:
            await wait_for_event(event, 60)
            event.clear()

    task = asyncio.create_task(loop())
    await pass_time(0.01)
    event.set()
    for _ in range(ticks):
        await pass_time(0)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_a_task_that_swallows_a_cancellation_is_canceled_again() -> None:
    """A worker stopped while it connected used to run for ever: redis-py swallowed the cancellation."""

    async def deaf() -> None:
        try:
            await pass_time(60)
        except asyncio.CancelledError:
            await pass_time(60)

    async def failing() -> None:
        raise ValueError

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(failing())]
    await pass_time(0.01)
    await cancel_all(tasks)
    assert [task.done() for task in tasks] == [True, True]


@pytest.mark.parametrize(
    ("now", "left_s"), [(100.0, 2.0), (100.5, 1.5), (101.7, 0.3), (101.9, 2.1), (101.9999, 2.0001), (0.0, 2.0)]
)
def test_loops_of_one_interval_wake_together_and_never_twice(now: float, left_s: float) -> None:
    assert next_turn_s(2.0, now) == pytest.approx(left_s)
