"""TaskSupervisor: loops that must not end, and work that ends by itself."""

import asyncio
from typing import Any

import pytest

from jobs.redis_client.event_wait import run_until_stopped
from jobs.redis_client.task_supervisor import TaskSupervisor
from tests.support.waiting import pass_time


async def _run_forever() -> None:
    await asyncio.Event().wait()


async def _end() -> None: ...


async def _fail() -> None:
    raise ValueError


def test_the_error_of_a_loop_is_reported_and_raised() -> None:
    async def run() -> None:
        reported: list[asyncio.Task[Any]] = []
        supervisor, stop = TaskSupervisor(reported.append), asyncio.Event()
        supervisor.start(_run_forever())
        failed = supervisor.start(_fail())
        assert not await run_until_stopped(supervisor.wait_for_failure(), stop)
        assert reported == [failed]
        await supervisor.cancel()
        supervisor.raise_failures()

    with pytest.raises(ValueError):  # noqa: PT011 - of `_fail`
        asyncio.run(run())


def test_the_end_of_a_loop_is_an_error_unless_it_is_expected() -> None:
    async def run() -> None:
        supervisor = TaskSupervisor()
        expected = supervisor.start(_end())
        supervisor.expect_end([expected])
        await expected
        await supervisor.cancel([supervisor.start(_run_forever())])
        supervisor.raise_failures()
        await supervisor.start(_end())
        await supervisor.wait_for_failure()
        supervisor.raise_failures()

    with pytest.raises(RuntimeError, match="ended unexpectedly"):
        asyncio.run(run())


def test_work_is_finished_in_time_or_canceled_once() -> None:
    async def run() -> list[str]:
        ended: list[str] = []

        async def work(seconds: float) -> None:
            try:
                await pass_time(seconds)
                ended.append("done")
            except asyncio.CancelledError:
                await pass_time(0.5)  # longer than the interval in which `cancel` repeats a cancellation
                ended.append("gave back")

        supervisor = TaskSupervisor()
        supervisor.run(work(0.01))
        supervisor.run(work(60))
        await supervisor.finish_work(within_s=0.1)
        await supervisor.finish_work()
        return ended

    assert asyncio.run(run()) == ["done", "gave back"]
