"""Lists run one at a time, within a share of the CPU time; the wait between them is bounded."""

import asyncio
import itertools

import pytest

from api.gateway import list_scheduler
from api.gateway.list_scheduler import ListScheduler, Turn
from tests.support.waiting import pass_time

pytestmark = pytest.mark.anyio


class Machine:
    """A manual clock for real time and for the CPU time of the thread; in seconds."""

    def __init__(self) -> None:
        self.now, self.cpu = 1000.0, 5.0

    def scheduler(self) -> ListScheduler:
        return ListScheduler(lambda: self.now, lambda: self.cpu, self.sleep)

    def burn(self, seconds: float) -> None:
        self.now += seconds
        self.cpu += seconds

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await pass_time(0)


async def test_the_cpu_time_of_a_list_is_measured_without_that_of_others() -> None:
    machine, turns = Machine(), list[Turn]()

    async def read(turn: Turn) -> str:
        turns.append(turn)
        for _ in range(4):
            machine.burn(0.002)
            await pass_time(0)
        return "page"

    async def other() -> None:
        for _ in range(4):
            machine.burn(0.01)
            await pass_time(0)

    page, _ = await asyncio.gather(machine.scheduler().run(read), other())
    assert page == "page"
    assert turns[0].cpu_s == pytest.approx(0.008)


async def test_lists_in_a_loop_wait_and_a_lone_one_does_not() -> None:
    machine, used_s = Machine(), 0.0005
    scheduler, due_s = machine.scheduler(), (used_s + list_scheduler.REQUEST_S) / list_scheduler.SHARE
    assert due_s < list_scheduler.MAX_WAIT_S

    async def read(_: Turn) -> float:
        began = machine.now
        machine.burn(used_s)
        return began

    asked = machine.now
    began = [await scheduler.run(read) for _ in range(40)]
    # Unused time is kept for two lists; from then on each waits for its share.
    assert [at - asked for at in began[:2]] == pytest.approx([0, used_s])
    assert [later - earlier for earlier, later in itertools.pairwise(began[2:])] == pytest.approx(37 * [due_s])


async def test_the_wait_between_lists_is_bounded() -> None:
    machine = Machine()
    scheduler = machine.scheduler()

    async def read(_: Turn) -> float:
        machine.burn(1.0)
        return machine.now

    ends = [await scheduler.run(read) for _ in range(4)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(ends)]
    assert gaps == pytest.approx(3 * [1.0 + list_scheduler.MAX_WAIT_S])


async def test_an_idle_gateway_gives_a_list_more_time() -> None:
    machine, looks = Machine(), list[bool]()
    scheduler = machine.scheduler()

    async def read(turn: Turn) -> None:
        machine.burn(2 * list_scheduler.BUDGET_S)
        looks.append(turn.is_over())

    await scheduler.run(read)
    await scheduler.run(read)
    machine.now += 2 * list_scheduler.IDLE_S
    await scheduler.run(read)
    assert looks == [False, True, False]


async def test_a_page_that_only_waits_ends_too() -> None:
    machine = Machine()

    async def read(turn: Turn) -> list[bool]:
        looks = [turn.is_over()]
        machine.now += 1.1 * list_scheduler.PAGE_S
        return [*looks, turn.is_over()]

    assert await machine.scheduler().run(read) == [False, True]


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
