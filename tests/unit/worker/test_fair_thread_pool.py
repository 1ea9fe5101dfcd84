"""Tenants take turns in the thread pool; slow inputs of one tenant never hold all threads."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.support.waiting import wait_until
from worker.fair_thread_pool import SLOW_S, FairThreadPool, Work

pytestmark = pytest.mark.anyio


class Desk:
    """Work that waits for its release; `order` is the order of the starts. Its clock is frozen."""

    def __init__(self, threads: int) -> None:
        self.now = 0.0
        self.turns = FairThreadPool(threads, lambda: self.now)
        self.order: list[str] = []
        self._gates: dict[str, threading.Event] = {}

    def give(self, name: str, tenant: str = "", model: str = "m", until: float = math.inf) -> "asyncio.Future[str]":
        self._gates[name] = threading.Event()
        return self.turns.submit(Work(tenant or name[0], model, partial(self._work, name), until=until))

    def give_both(self, *names: str) -> "dict[str, asyncio.Future[str]]":
        """Release one after the other, each when the one before has begun."""
        given = {}
        for name in names:
            given[name] = self.give(name)
            self.begun(name)
        return given

    def _work(self, name: str) -> str:
        self.order.append(name)
        assert self._gates[name].wait(20)
        return name

    async def let_go(self, future: "asyncio.Future[str]", name: str, took_s: float = 0.0) -> None:
        wait_until(lambda: name in self.order, f"{name} has begun")
        self.now += took_s
        self._gates[name].set()
        assert await future == name

    def begun(self, *names: str) -> None:
        """Wait until these have begun."""
        wait_until(lambda: set(names) <= set(self.order), f"{names} begin")

    def open(self) -> None:
        self.turns.close()
        for gate in self._gates.values():
            gate.set()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk(threads=1)
    yield made
    made.open()


async def test_tenants_take_turns(desk: Desk) -> None:
    given = desk.give_both("a1", "b1")  # one tenant may have one thread, and there are two
    given |= {name: desk.give(name) for name in ("a2", "a3", "a4", "c1", "d1")}
    await desk.let_go(given["a1"], "a1")
    for name in ("a2", "c1", "d1", "a3", "a4"):  # beside b1, which goes on
        await desk.let_go(given[name], name)
    assert desk.order == ["a1", "b1", "a2", "c1", "d1", "a3", "a4"]
    await desk.let_go(given["b1"], "b1")


async def test_one_tenant_alone_has_as_many_threads_as_are_configured() -> None:
    desk = Desk(threads=2)
    given = [desk.give(f"a{n}") for n in range(4)]
    desk.begun("a0", "a1")
    other = desk.give("b0")
    desk.begun("b0")
    assert desk.order == ["a0", "a1", "b0"]
    await desk.let_go(other, "b0")
    assert desk.order == ["a0", "a1", "b0"], "the third thread is not for who has two"
    for n, one in enumerate(given):
        await desk.let_go(one, f"a{n}")
    desk.open()


async def test_the_last_thread_is_reserved_from_tenants_with_slow_inputs(desk: Desk) -> None:
    for name in ("a0", "b0"):
        await desk.let_go(desk.give(name), name, took_s=2 * SLOW_S)
    wait_until(lambda: desk.turns.is_slow("a") and desk.turns.is_slow("b"), "the ends are recorded, by a thread")
    slow = {name: desk.give(name) for name in ("a1", "b1")}
    desk.begun("a1")
    await desk.let_go(desk.give("c1"), "c1")  # while a1 is at work, and b1 waits
    assert "b1" not in desk.order
    await desk.let_go(slow["a1"], "a1")
    await desk.let_go(slow["b1"], "b1")


async def test_a_slow_tenant_is_forgiven_later(desk: Desk) -> None:
    await desk.let_go(desk.give("a0"), "a0", took_s=3 * SLOW_S)
    for n in range(1, 5):
        await desk.let_go(desk.give(f"a{n}"), f"a{n}")
    wait_until(lambda: not desk.turns.is_slow("a"), "the last end is recorded, by a thread")


async def test_models_of_one_tenant_take_turns_within_its_share(desk: Desk) -> None:
    given = desk.give_both("a1", "b1")
    names = [("a2", "m"), ("a3", "m"), ("a4", "n"), ("a5", "o")]
    given |= {name: desk.give(name, model=model) for name, model in names}
    given["b2"] = desk.give("b2")
    for name in ("b1", "b2", "a1", "a2", "a4", "a5", "a3"):
        await desk.let_go(given[name], name)
    assert [name for name in desk.order if name[0] == "a"] == ["a1", "a2", "a4", "a5", "a3"]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("bye"), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_a_thread_survives_any_exception(desk: Desk, error: BaseException) -> None:
    def work() -> None:
        raise error

    failed = desk.turns.submit(Work("a", "m", work))
    await asyncio.wait([failed])
    assert failed.cancelled() or failed.exception() is not None
    await desk.let_go(desk.give("a1"), "a1")


async def test_a_closed_pool_starts_no_work(desk: Desk) -> None:
    first, second = desk.give("a1"), desk.give("a2")
    desk.begun("a1")
    desk.turns.close()
    await asyncio.wait([second])
    assert second.cancelled()
    await desk.let_go(first, "a1")
    assert desk.order == ["a1"]


async def test_the_pool_reports_when_abandoned_work_holds_every_thread(desk: Desk) -> None:
    desk.give("a1", until=5.0)
    desk.give("b1", until=8.0)
    desk.begun("a1", "b1")
    desk.now = 17.0
    assert not desk.turns.are_all_stuck(10.0)
    desk.now = 19.0
    assert desk.turns.are_all_stuck(10.0)
