"""A worker's loops: tasks of which none should end by itself; should one, the worker hears of it."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from jobs.redis_client.event_wait import cancel_all

Task = asyncio.Task[Any]


class TaskSupervisor:
    """All of them. `ended` is set when one has ended that was not to."""

    def __init__(self) -> None:
        self._running: set[Task] = set()
        self._failures: list[BaseException] = []
        self.ended = asyncio.Event()

    def start(self, loop: Coroutine[Any, Any, Any]) -> Task:
        """Run a loop until it is canceled here."""
        task = asyncio.create_task(loop)
        self._running.add(task)
        task.add_done_callback(self._on_end)
        return task

    def expect_end(self, tasks: Iterable[Task]) -> None:
        """Expect these to end by themselves."""
        self._running.difference_update(tasks)

    async def cancel(self, tasks: Iterable[Task] | None = None) -> None:
        """End some, or all."""
        ending = [*(self._running if tasks is None else tasks)]
        self.expect_end(ending)
        await cancel_all(ending)

    def raise_failures(self) -> None:
        """Raise what ended a loop that should not have."""
        for failure in self._failures:
            raise failure

    def _on_end(self, task: Task) -> None:
        if task in self._running:
            self._running.discard(task)
            failure = None if task.cancelled() else task.exception()
            self._failures.append(failure or RuntimeError("a loop of the worker ended by itself"))
            self.ended.set()
