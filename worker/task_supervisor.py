"""Runs a worker's loops as tasks and reports a loop that ends unexpectedly."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from jobs.redis_client.event_wait import cancel_all

Task = asyncio.Task[Any]


class TaskSupervisor:
    """Tasks that run until canceled. `ended` is set when one ends unexpectedly."""

    def __init__(self) -> None:
        self._running: set[Task] = set()
        self._failures: list[BaseException] = []
        self.ended = asyncio.Event()

    def start(self, loop: Coroutine[Any, Any, Any]) -> Task:
        """Start a loop; it should end only by `cancel`, or after `expect_end`."""
        task = asyncio.create_task(loop)
        self._running.add(task)
        task.add_done_callback(self._on_end)
        return task

    def expect_end(self, tasks: Iterable[Task]) -> None:
        """Treat the end of these tasks as expected."""
        self._running.difference_update(tasks)

    async def cancel(self, tasks: Iterable[Task] | None = None) -> None:
        """Cancel some tasks, or all, and wait for their end."""
        canceled = [*(self._running if tasks is None else tasks)]
        self.expect_end(canceled)
        await cancel_all(canceled)

    def raise_failures(self) -> None:
        """Raise the error of a loop that ended unexpectedly, if one did."""
        for failure in self._failures:
            raise failure

    def _on_end(self, task: Task) -> None:
        if task in self._running:
            self._running.discard(task)
            failure = None if task.cancelled() else task.exception()
            self._failures.append(failure or RuntimeError("a loop of the worker ended unexpectedly"))
            self.ended.set()
