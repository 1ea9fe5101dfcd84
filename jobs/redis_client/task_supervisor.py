"""Supervises the tasks of a process: reports a loop that ends unexpectedly, keeps other work until it ends."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from jobs.redis_client.event_wait import cancel_all

T = TypeVar("T")
Task = asyncio.Task[Any]


class TaskSupervisor:
    """Loops, which run until canceled, and work, which ends by itself.

    `on_loop_end` is called with the task of a loop that ends unexpectedly.
    """

    def __init__(self, on_loop_end: Callable[[Task], None] | None = None) -> None:
        self._loops: set[Task] = set()
        self._work: set[Task] = set()  # the event loop itself keeps no reference to a task
        self._failures: list[BaseException] = []
        self._loop_ended = asyncio.Event()
        self._on_loop_end = on_loop_end

    def start(self, loop: Coroutine[Any, Any, Any]) -> Task:
        """Start a loop; it should end only by `cancel`, or after `expect_end`."""
        task = asyncio.create_task(loop)
        self._loops.add(task)
        task.add_done_callback(self._on_end)
        return task

    def run(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work that ends by itself. An error that nobody awaits is logged by asyncio."""
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    def expect_end(self, loops: Iterable[Task]) -> None:
        """Treat the end of these loops as expected."""
        self._loops.difference_update(loops)

    async def cancel(self, loops: Iterable[Task] | None = None) -> None:
        """Cancel some loops, or all, and wait for their end."""
        canceled = [*(self._loops if loops is None else loops)]
        self.expect_end(canceled)
        await cancel_all(canceled)

    async def finish_work(self, within_s: float = 0.0) -> None:
        """Wait up to `within_s` seconds for the work under way, then cancel the rest once and wait for its end."""
        if self._work and within_s:
            await asyncio.wait(self._work, timeout=within_s)
        canceled = [*self._work]
        for task in canceled:
            task.cancel()
        await asyncio.gather(*canceled, return_exceptions=True)

    async def wait_for_failure(self) -> None:
        """Wait until a loop ends unexpectedly."""
        await self._loop_ended.wait()

    def raise_failures(self) -> None:
        """Raise the error of a loop that ended unexpectedly, if one did."""
        for failure in self._failures:
            raise failure

    def _on_end(self, task: Task) -> None:
        if task not in self._loops:
            return
        self._loops.discard(task)
        failure = None if task.cancelled() else task.exception()
        self._failures.append(failure or RuntimeError("a loop of this process ended unexpectedly"))
        self._loop_ended.set()
        if self._on_loop_end is not None:
            self._on_loop_end(task)
