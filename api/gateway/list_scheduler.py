"""Runs list requests one at a time and limits their CPU time.

So they hardly slow submits. The CPU time of each list is measured. The next one waits until lists have used at most
SHARE of the time, but never longer than MAX_WAIT_S. Lists that come now and then do not wait at all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")
Clock = Callable[[], float]  # returns seconds

SHARE: Final = 0.02  # of the time of the event loop
REQUEST_S: Final = 0.002  # CPU time of a request besides its list
MAX_WAIT_S: Final = 0.14
BURST_S: Final = 0.15  # of unused time that is kept for lists that come together
IDLE_S: Final = 1.0  # after which a list may use more CPU time
IDLE_BUDGET_S: Final = 0.04
BUDGET_S: Final = 0.002  # CPU time after which the page of a list ends early
PAGE_S: Final = 0.05  # the same in real time


class Turn:
    """A list that runs: the CPU time that it has used, and whether its page should end."""

    def __init__(self, budget_s: float, clock: Clock = time.monotonic, cpu_clock: Clock = time.thread_time) -> None:
        self._clock, self._cpu_clock = clock, cpu_clock
        self._budget_s, self._ends_at = budget_s, clock() + PAGE_S
        self.cpu_s = 0.0
        self._resumed_at: float | None = None  # CPU time of the thread

    def is_over(self) -> bool:
        used_s = self.cpu_s + (0.0 if self._resumed_at is None else self._cpu_clock() - self._resumed_at)
        return used_s > self._budget_s or self._clock() > self._ends_at

    def resume(self) -> None:
        self._resumed_at = self._cpu_clock()

    def suspend(self) -> None:
        if self._resumed_at is not None:
            self.cpu_s += self._cpu_clock() - self._resumed_at
        self._resumed_at = None


class _Metered(Generic[T]):
    """Awaits a coroutine, and measures the CPU time of its steps."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], turn: Turn) -> None:
        self._coroutine, self._turn = coroutine, turn

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine, turn = self._coroutine, self._turn
        step: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731 (replaced for each step)
        while True:
            turn.resume()
            try:
                awaited = step()
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                turn.suspend()
            try:
                value = yield awaited
            except BaseException as error:  # noqa: BLE001 (a cancellation, which the coroutine handles)
                raised = error
                step = lambda: coroutine.throw(raised)  # noqa: E731,B023 (called before the next round)
            else:
                step = lambda: coroutine.send(value)  # noqa: E731,B023 (the same)


class ListScheduler:
    """Gives turns to lists, in the order of their arrival."""

    def __init__(
        self,
        clock: Clock = time.monotonic,
        cpu_clock: Clock = time.thread_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock, self._cpu_clock, self._sleep = clock, cpu_clock, sleep
        self._lock = asyncio.Lock()
        self._free_at = 0.0  # when the share is kept again

    async def run(self, read: Callable[[Turn], Coroutine[Any, Any, T]]) -> T:
        """Wait for a turn, and return the result of a list."""
        async with self._lock:
            if (wait_s := self._free_at - self._clock()) > 0:
                await self._sleep(wait_s)
            began = self._clock()
            budget_s = IDLE_BUDGET_S if began - self._free_at > IDLE_S else BUDGET_S
            turn = Turn(budget_s, self._clock, self._cpu_clock)
            try:
                return await _Metered(read(turn), turn)
            finally:
                due = max(self._free_at, began - BURST_S) + (turn.cpu_s + REQUEST_S) / SHARE
                self._free_at = min(due, self._clock() + MAX_WAIT_S)
