"""Waiting with an end: for an event, for so long, and for nothing once the waiting is canceled."""

import asyncio

import pytest

from jobs.redis_client.event_wait import cancel_all, wait_for_event
from tests.support.waiting import pass_time

pytestmark = pytest.mark.anyio


async def test_it_tells_whether_the_event_came() -> None:
    event = asyncio.Event()
    assert await wait_for_event(event, 0.01) is False
    event.set()
    assert await wait_for_event(event, None) is True


@pytest.mark.parametrize("ticks", range(5))
async def test_a_cancellation_that_comes_with_the_event_is_heard(ticks: int) -> None:
    """Or the loop would go on, and whoever canceled it wait for ever."""
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
    """A worker that was told to stop while it connected went on for ever: redis-py had swallowed it."""

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
