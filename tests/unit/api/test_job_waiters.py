"""Many requests wait over one subscription; a lost notice costs time, never an answer."""

import asyncio
from typing import Any, cast

import pytest

from api.gateway.job_waiters import JobWaiters
from jobs.contract.job import Job
from jobs.contract.lifecycle import State
from jobs.store.job_store import JobStore

pytestmark = pytest.mark.anyio


class Shelf:
    """The one thing Waiting asks of a store: to read jobs. What is read is whatever was put there."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def put(self, job_id: str, state: State) -> None:
        facts: dict[str, Any] = {"model": "m", "version": "1", "lane": "interactive", "tenant": "default"}
        self.jobs[job_id] = Job(id=job_id, state=state, created_us=1, attempts=1, metadata=b"{}", **facts)

    async def read(self, ids: list[str]) -> list[Job | None]:
        return [self.jobs.get(job_id) for job_id in ids]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def waiting(shelf: Shelf) -> JobWaiters:
    return JobWaiters(cast("JobStore", shelf))


async def test_a_notice_brings_the_answer_to_all_who_wait(waiting: JobWaiters, shelf: Shelf) -> None:
    futures = [waiting.expect("a") for _ in range(3)]
    shelf.put("a", State.SUCCEEDED)
    waiting.on_notification(b'[["z"],["a"]]')
    answers = await asyncio.gather(*(waiting.wait_until_final("a", future, 5) for future in futures))
    assert [answer.id for answer in answers if answer] == ["a"] * 3
    assert waiting._waiters == {}


@pytest.mark.parametrize("notice", [b"a", b"{}", b"[1]", b"[[]]", b"\xff"])
async def test_after_a_notice_that_nobody_can_read_all_who_wait_are_looked_at(
    waiting: JobWaiters, shelf: Shelf, notice: bytes
) -> None:
    future = waiting.expect("a")
    shelf.put("a", State.SUCCEEDED)
    waiting.on_notification(notice)
    assert await waiting.wait_until_final("a", future, 5)


async def test_a_lost_notice_is_made_up_for(waiting: JobWaiters, shelf: Shelf) -> None:
    future = waiting.expect("a")
    shelf.put("a", State.FAILED)
    await waiting.refresh_now()
    answer = await waiting.wait_until_final("a", future, 5)
    assert answer is not None
    assert answer.state == State.FAILED


async def test_a_job_that_is_not_final_is_waited_for_on(waiting: JobWaiters, shelf: Shelf) -> None:
    future = waiting.expect("a")
    shelf.put("a", State.RUNNING)
    await waiting.refresh_now()
    assert await waiting.wait_until_final("a", future, 0.01) is None
    assert waiting._waiters == {}


async def test_a_job_whose_submit_is_under_way_is_not_taken_for_gone(waiting: JobWaiters, shelf: Shelf) -> None:
    future = waiting.expect("a")
    await waiting.refresh_now()
    shelf.put("a", State.SUCCEEDED)
    waiting.confirm("a")
    waiting.on_notification(b'[["a"]]')
    answer = await waiting.wait_until_final("a", future, 5)
    assert answer is not None


async def test_a_job_that_is_gone_is_not_waited_for(waiting: JobWaiters) -> None:
    future = waiting.expect("a")
    waiting.confirm("a")
    await waiting.refresh_now()
    assert await asyncio.wait_for(waiting.wait_until_final("a", future, 60), 1) is None


async def test_closing_sends_everybody_home_now_and_later(waiting: JobWaiters, shelf: Shelf) -> None:
    shelf.put("a", State.RUNNING)
    before = waiting.expect("a")
    waiting.close()
    after = waiting.expect("a")
    for future in (before, after):
        assert await asyncio.wait_for(waiting.wait_until_final("a", future, 60), 1) is None
