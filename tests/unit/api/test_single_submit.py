"""A request that submits one job leaves nothing behind, however it ends."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from api.asgi.tenant_budgets import BudgetShare
from api.gateway.gateway import Gateway
from api.gateway.job_waiters import JobWaiters
from api.gateway.submit_coalescer import OnResult
from api.submission.single_submit import SingleSubmit
from jobs.contract.errors import Refused
from jobs.contract.job import Accepted, Job, Submission
from jobs.contract.lifecycle import State
from jobs.store.job_store import JobStore
from tests.support.waiting import pass_time

pytestmark = pytest.mark.anyio

JOB = Submission("00a", "m", "1", "raw", b"input")
READ = Job("00a", State.QUEUED, "m", "1", "interactive", "default", 1, 0, b"{}")


class Store:
    """Has the job that was submitted."""

    async def read(self, job_ids: list[str]) -> list[Job]:
        return [READ._replace(id=job_id) for job_id in job_ids]


class SubmitQueue:
    """Keeps what waits for the result of a submit."""

    on_result: OnResult

    def submit(self, _job: Submission, on_result: OnResult, _gateway: str, *, closed: Any) -> None:
        del closed
        self.on_result = on_result


class Bench:
    """A gateway with one submit under way."""

    def __init__(self) -> None:
        self.submits, store = SubmitQueue(), Store()
        self.waiting = JobWaiters(cast("JobStore", store))
        parts = {
            "id": "g",
            "waiting": self.waiting,
            "submits": self.submits,
            "store": store,
            "refusal": lambda *_: None,
        }
        share = cast("BudgetShare", SimpleNamespace(release=lambda: None))
        self.submit = SingleSubmit(cast("Gateway", SimpleNamespace(**parts)), JOB, wait_s=5, share=share)
        self.outcome = asyncio.create_task(self.submit.outcome())

    @property
    def awaited(self) -> list[str]:
        return [*self.waiting._waiters]


async def test_an_end_before_the_result_of_the_submit() -> None:
    bench = Bench()
    await pass_time(0)
    assert bench.awaited == ["00a"]
    bench.submit.end()
    await pass_time(0)
    bench.submits.on_result(Accepted("00a", 1, replayed=False))
    assert (await bench.outcome).id == "00a"
    assert bench.awaited == []


async def test_a_cancellation_with_a_replayed_job() -> None:
    bench = Bench()
    await pass_time(0)
    bench.submits.on_result(Accepted("00b", 1, replayed=True))
    assert bench.awaited == ["00b"]
    bench.outcome.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bench.outcome
    assert bench.awaited == []


async def test_a_refusal() -> None:
    bench = Bench()
    await pass_time(0)
    bench.submits.on_result(Refused("invalid_input", "no"))
    with pytest.raises(Refused):
        await bench.outcome
    assert bench.awaited == []
