"""Submits one job and waits for its outcome. The request sleeps once: until the job is final, or else until it fails.

The result of the submit does not wake a request that waits for the outcome, because most jobs are accepted.
"""

import asyncio

from api.asgi.tenant_budgets import BudgetShare
from api.gateway.gateway import Gateway
from api.gateway.job_waiters import JobFuture, end_waits
from api.gateway.submit_coalescer import SubmitResult
from api.submission.submit import Submitted, admit_job, lost_job_error, to_submitted, unwrap, wait_for_outcomes
from jobs.contract.errors import JitneyError, StoreUnavailable
from jobs.contract.job import Job, Submission
from jobs.contract.job_request import JobRequest
from jobs.store.admission import check_idempotency_key


class SingleSubmit:
    """A job that is being submitted. `await` `outcome` once, and nothing before it."""

    __slots__ = (
        "_closed",
        "_end",
        "_failure",
        "_gateway",
        "_is_late",
        "_job",
        "_result",
        "_share",
        "_timer",
        "_wait_s",
        "id",
    )

    def __init__(
        self, gateway: Gateway, tenant: str, job_request: JobRequest, key: str, *, wait_s: float, share: BudgetShare
    ) -> None:
        """Submit a job, and wait up to `wait_s` seconds for its end once it is accepted; 0: do not wait.

        The share of the budget of bodies is released with the result of the submit, or by the caller if this raises
        JitneyError.
        """
        check_idempotency_key(key)
        job = admit_job(gateway, tenant, job_request, key)
        refusal = gateway.watermark.refusal(job.lane)
        if refusal is not None and not key:
            raise refusal
        self._gateway, self._wait_s, self._share, self.id = gateway, wait_s, share, job.id
        self._job: Submission | None = job
        self._closed = {} if refusal is None else {job.lane: refusal}
        self._result: Submitted | None = None
        self._failure: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_late = not wait_s  # the result of the submit ends the wait
        # Start to wait before the submit, so that no notification is missed.
        waiting = gateway.waiting
        self._end: JobFuture = waiting.expect(job.id) if wait_s else waiting.running_loop().create_future()
        gateway.submits.submit(job, self._on_result, gateway.id if wait_s else "", closed=self._closed)

    def end(self) -> None:
        """End the wait early."""
        end_waits(self._end)

    @property
    def is_replayed(self) -> bool:
        """Whether the Idempotency-Key matched an earlier job. Known once there is an outcome."""
        return self._result is not None and self._result.accepted.replayed

    async def outcome(self) -> Job:
        """Return the job once it is final or the wait is over, without a large output; raises JitneyError."""
        waiting, job_id = self._gateway.waiting, self.id
        try:
            job = await self._end
            if job is None and self._job is not None:  # the wait was ended before the result of the submit
                self._end, self._is_late = waiting.running_loop().create_future(), True
                await self._end
        finally:
            waiting.forget(job_id, self._end)
            if self._timer is not None:
                self._timer.cancel()
        return await self._late_outcome() if job is None else job

    def _on_result(self, result: SubmitResult | BaseException) -> None:
        """Keep the result of the submit; wake the request unless it still has to wait for the end of the job."""
        self._share.release()
        job, self._job = self._job, None  # frees the input
        if job is None or self._end.cancelled():
            return
        if isinstance(result, BaseException) and not isinstance(result, JitneyError):
            self._failure = result
        else:
            submitted = to_submitted(self._gateway, job, result, self._end if self._wait_s else None, self._closed)
            if isinstance(submitted, JitneyError):
                self._failure = submitted
            else:
                self._result = submitted
                if not self._is_late and not submitted.accepted.replayed:
                    if not self._end.done():
                        loop = self._gateway.waiting.running_loop()
                        self._timer = loop.call_later(self._wait_s, end_waits, self._end)
                    return
        end_waits(self._end)

    async def _late_outcome(self) -> Job:
        """Return the outcome of a job whose end was not notified."""
        gateway, submitted = self._gateway, self._result
        if submitted is None:
            raise self._failure or AssertionError
        if submitted.accepted.replayed:
            (outcome,) = await wait_for_outcomes(gateway, [submitted], self._wait_s)
            return unwrap(outcome)
        if not self._wait_s:
            return submitted.job
        try:
            (job,) = await gateway.store.read([self.id])
        except StoreUnavailable:  # the job was accepted, so the caller must get its id
            return submitted.job
        return unwrap(job or lost_job_error(gateway, submitted.accepted))
