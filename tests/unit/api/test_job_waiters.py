"""Many requests wait over one subscription; a lost notification delays a response but never loses it."""

import asyncio
from typing import Any, cast

import pytest

from api.gateway.job_waiters import JobWaiters
from jobs.contract.job import Job
from jobs.contract.lifecycle import State
from jobs.store.job_store import JobStore

pytestmark = pytest.mark.anyio


class FakeStore:
    """A store with the one method that JobWaiters needs: it reads the jobs that a test put there."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def put(self, job_id: str, state: State) -> None:
        facts: dict[str, Any] = {"model": "m", "version": "1", "lane": "interactive", "tenant": "default"}
        self.jobs[job_id] = Job(id=job_id, state=state, created_us=1, attempts=1, metadata=b"{}", **facts)

    async def read(self, ids: list[str]) -> list[Job | None]:
        return [self.jobs.get(job_id) for job_id in ids]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def waiting(store: FakeStore) -> JobWaiters:
    return JobWaiters(cast("JobStore", store))


async def test_a_notification_resolves_all_waiters(waiting: JobWaiters, store: FakeStore) -> None:
    futures = [waiting.expect("a") for _ in range(3)]
    store.put("a", State.SUCCEEDED)
    waiting.on_notification(b'[["z"],["a"]]')
    answers = await asyncio.gather(*(waiting.wait_until_final("a", future, 5) for future in futures))
    assert [answer.id for answer in answers if answer] == ["a"] * 3
    assert waiting._waiters == {}


@pytest.mark.parametrize("notice", [b"a", b"{}", b"[1]", b"[[]]", b"\xff"])
async def test_an_unreadable_notification_rechecks_all_waiters(
    waiting: JobWaiters, store: FakeStore, notice: bytes
) -> None:
    future = waiting.expect("a")
    store.put("a", State.SUCCEEDED)
    waiting.on_notification(notice)
    assert await waiting.wait_until_final("a", future, 5)


async def test_a_lost_notification_is_made_up_by_polling(waiting: JobWaiters, store: FakeStore) -> None:
    future = waiting.expect("a")
    store.put("a", State.FAILED)
    await waiting.refresh_now()
    answer = await waiting.wait_until_final("a", future, 5)
    assert answer is not None
    assert answer.state == State.FAILED


async def test_a_job_that_is_not_final_is_awaited_further(waiting: JobWaiters, store: FakeStore) -> None:
    future = waiting.expect("a")
    store.put("a", State.RUNNING)
    await waiting.refresh_now()
    assert await waiting.wait_until_final("a", future, 0.01) is None
    assert waiting._waiters == {}


async def test_a_job_that_is_being_submitted_does_not_count_as_gone(waiting: JobWaiters, store: FakeStore) -> None:
    future = waiting.expect("a")
    await waiting.refresh_now()
    store.put("a", State.SUCCEEDED)
    waiting.confirm("a")
    waiting.on_notification(b'[["a"]]')
    answer = await waiting.wait_until_final("a", future, 5)
    assert answer is not None


async def test_a_job_that_is_gone_is_not_awaited(waiting: JobWaiters) -> None:
    future = waiting.expect("a")
    waiting.confirm("a")
    await waiting.refresh_now()
    assert await asyncio.wait_for(waiting.wait_until_final("a", future, 60), 1) is None


async def test_closing_resolves_present_and_later_waiters(waiting: JobWaiters, store: FakeStore) -> None:
    store.put("a", State.RUNNING)
    before = waiting.expect("a")
    waiting.close()
    after = waiting.expect("a")
    for future in (before, after):
        assert await asyncio.wait_for(waiting.wait_until_final("a", future, 60), 1) is None
