"""Submits leave together: those of one loop iteration, and those that arrive while others are being submitted."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, cast

import pytest

from api.gateway.submit_coalescer import MAX_GROUP_JOBS, MAX_HOLD_S, SubmitCoalescer
from jobs.contract.errors import StoreUnavailable
from jobs.contract.job import Accepted, Submission
from jobs.store.job_store import JobStore
from tests.support.waiting import pass_time

pytestmark = pytest.mark.anyio


class Store:
    """Records submits. Each ends when its future in `answers` does."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.answers: list[asyncio.Future[None]] = []

    async def submit(
        self, jobs: Sequence[Submission], waiting_gateway: str, *, closed: Collection[str]
    ) -> list[Accepted]:
        del waiting_gateway, closed
        self.groups.append([job.id for job in jobs])
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]
        return [Accepted(job.id, 1, replayed=False) for job in jobs]


class Caller:
    """Submits jobs, and keeps the results."""

    def __init__(self) -> None:
        self.store, self.results = Store(), dict[str, Any]()
        self._coalescer = SubmitCoalescer(cast("JobStore", self.store))

    def submit(self, *ids: str, size: int = 1) -> None:
        for job_id in ids:
            job = Submission(job_id, "m", "1", "raw", bytes(size))
            self._coalescer.submit(job, lambda result, job_id=job_id: self.results.update({job_id: result}))  # type: ignore[misc]

    async def end(self) -> None:
        """Answer every submit, so that no task is left."""
        for answer in self.store.answers:
            if not answer.done():
                answer.set_result(None)
        await pass_time(0.01)


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    made = Caller()
    yield made
    await made.end()


async def test_submits_of_one_iteration_leave_together_and_at_once(caller: Caller) -> None:
    caller.submit("a", "b")
    await pass_time(0)
    assert caller.store.groups == [["a", "b"]]


async def test_submits_gather_while_others_are_being_submitted(caller: Caller) -> None:
    caller.submit("a")
    await pass_time(0)
    caller.submit("b")
    await pass_time(0)
    caller.submit("c")
    await pass_time(0)
    assert caller.store.groups == [["a"]]
    caller.store.answers[0].set_result(None)
    await pass_time(0.05)
    assert caller.store.groups == [["a"], ["b", "c"]]
    caller.store.answers[1].set_result(None)
    await pass_time(0.01)
    assert [*caller.results] == ["a", "b", "c"]
    caller.submit("d")
    await pass_time(0)
    assert caller.store.groups[2:] == [["d"]]


async def test_a_full_group_does_not_wait(caller: Caller) -> None:
    caller.submit("a")
    await pass_time(0)
    caller.submit(*map(str, range(MAX_GROUP_JOBS)))
    await pass_time(0)
    assert [len(group) for group in caller.store.groups] == [1, MAX_GROUP_JOBS]


async def test_a_group_does_not_wait_for_one_that_hangs(caller: Caller) -> None:
    caller.submit("a")
    await pass_time(0)
    caller.submit("b")
    await pass_time(MAX_HOLD_S + 0.05)
    caller.submit("c")
    await pass_time(MAX_HOLD_S + 0.05)
    assert caller.store.groups == [["a"], ["b"], ["c"]]
    await caller.end()
    assert [*caller.results] == ["a", "b", "c"]


async def test_large_inputs_do_not_wait_for_small_ones(caller: Caller) -> None:
    caller.submit("small")
    await pass_time(0)
    caller.submit("large", size=40_000)
    await pass_time(0)
    assert caller.store.groups == [["small"], ["large"]]


async def test_an_error_reaches_its_group_and_the_next_group_leaves(caller: Caller) -> None:
    caller.submit("a")
    await pass_time(0)
    caller.submit("b")
    caller.store.answers[0].set_exception(StoreUnavailable("away"))
    await pass_time(0.01)
    assert isinstance(caller.results["a"], StoreUnavailable)
    caller.store.answers[1].set_result(None)
    await pass_time(0.01)
    assert caller.results["b"].id == "b"
