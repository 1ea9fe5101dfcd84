"""Lists run one at a time, within a share of the CPU time; the wait between them is bounded."""

import asyncio
import itertools
import time

import pytest

from api.gateway import list_scheduler
from api.gateway.list_scheduler import ListScheduler, Turn
from tests.support.waiting import pass_time

pytestmark = pytest.mark.anyio


def burn(seconds: float) -> None:
    """Use CPU time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def test_the_cpu_time_of_a_list_is_measured_without_that_of_others() -> None:
    turns: list[Turn] = []

    async def read(turn: Turn) -> str:
        turns.append(turn)
        for _ in range(4):
            burn(0.002)
            await pass_time(0)
        return "page"

    async def other() -> None:
        for _ in range(4):
            burn(0.01)
            await pass_time(0)

    page, _ = await asyncio.gather(ListScheduler().run(read), other())
    assert page == "page"
    assert 0.008 <= turns[0].cpu_s < 0.02


async def test_lists_in_a_loop_wait_and_a_lone_one_does_not() -> None:
    scheduler, used_s = ListScheduler(), 0.004

    async def read(_: Turn) -> float:
        burn(used_s)
        return asyncio.get_running_loop().time()

    clock = asyncio.get_running_loop().time
    asked = clock()
    began = [await scheduler.run(read) for _ in range(4)]
    assert began[0] - asked < 0.05
    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    due_s = min(list_scheduler.MAX_WAIT_S, (used_s + list_scheduler.REQUEST_S) / list_scheduler.SHARE)
    assert 0.9 * (3 * due_s - list_scheduler.BURST_S) <= sum(gaps) < 3 * (list_scheduler.MAX_WAIT_S + 2)


async def test_an_idle_gateway_gives_a_list_more_time() -> None:
    scheduler, looks = ListScheduler(), list[bool]()

    async def read(turn: Turn) -> None:
        burn(2 * list_scheduler.BUDGET_S)
        looks.append(turn.is_over())

    await scheduler.run(read)
    await scheduler.run(read)
    assert looks == [False, True]


async def test_an_error_and_a_cancellation_pass_through_and_end_the_turn() -> None:
    scheduler, begun = ListScheduler(), asyncio.Event()

    async def fail(_: Turn) -> None:
        await pass_time(0)
        raise ValueError("no page")

    async def hang(_: Turn) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def read(_: Turn) -> str:
        return "page"

    with pytest.raises(ValueError, match="no page"):
        await scheduler.run(fail)
    task = asyncio.create_task(scheduler.run(hang))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await scheduler.run(read) == "page"
