"""Submits one job and waits for its outcome. The request sleeps once: until the job is final or the submit fails.

The result of the submit does not wake a request that waits for the outcome, because most jobs are accepted.
"""

from api.asgi.tenant_budgets import BudgetShare
from api.gateway.gateway import Gateway
from api.gateway.job_waiters import JobFuture, WaitTimeouts, end_waits
from api.gateway.submit_coalescer import SubmitResult
from api.submission.submit import (
    Submitted,
    accepted_job,
    lost_job_error,
    to_submitted,
    unwrap,
    wait_for_outcomes,
)
from jobs.contract.errors import JitneyError, StoreUnavailable
from jobs.contract.job import Accepted, Job, Submission


class SingleSubmit:
    """A job that is being submitted. Await `outcome()` exactly once, and nothing else before it."""

    __slots__ = (
        "_accepted",
        "_end",
        "_failure",
        "_gateway",
        "_is_late",
        "_job",
        "_refusal",
        "_share",
        "_timeouts",
        "_wait_s",
        "id",
    )

    def __init__(self, gateway: Gateway, job: Submission, *, wait_s: float, share: BudgetShare) -> None:
        """Submit a job, and wait up to `wait_s` seconds for its end once it is accepted; 0: do not wait.

        The share of the budget of bodies is released with the result of the submit, or by the caller if this raises
        JitneyError.
        """
        refusal = gateway.refusal(job.model, job.lane)
        if refusal is not None and not job.idempotency_key:
            raise refusal
        self._gateway, self._wait_s, self._share, self.id = gateway, wait_s, share, job.id
        self._job: Submission | None = job
        self._refusal = refusal
        self._accepted: Submitted | None = None
        self._failure: BaseException | None = None
        self._timeouts: WaitTimeouts | None = None
        self._is_late = not wait_s  # the result of the submit ends the wait
        # Start to wait before the submit, so that no notification is missed.
        waiting = gateway.waiting
        self._end: JobFuture = waiting.expect(job.id) if wait_s else waiting.running_loop().create_future()
        gateway.submits.submit(
            job, self._on_result, gateway.id if wait_s else "", closed=() if refusal is None else (job.lane,)
        )

    def end(self) -> None:
        """End the wait early."""
        end_waits(self._end)

    @property
    def is_replayed(self) -> bool:
        """Whether the Idempotency-Key matched an earlier job. Known once there is an outcome."""
        return self._accepted is not None and self._accepted.accepted.replayed

    async def outcome(self) -> Job:
        """Return the job once it is final or the wait is over, without a large output; raises JitneyError."""
        waiting, job_id = self._gateway.waiting, self.id
        try:
            job = await self._end
            if job is None and self._job is not None:  # the wait was ended before the result of the submit
                waiting.forget(job_id, self._end)
                self._end, self._is_late = waiting.running_loop().create_future(), True
                await self._end
        except BaseException:
            if self._accepted is not None and self._accepted.end is not None:  # of a replayed job
                waiting.forget(self._accepted.accepted.id, self._accepted.end)
            raise
        finally:
            waiting.forget(job_id, self._end)
            if self._timeouts is not None:
                self._timeouts.stop(self._end)
        return await self._late_outcome() if job is None else job

    def _on_result(self, result: SubmitResult | BaseException) -> None:
        """Keep the result of the submit; wake the request unless it still has to wait for the end of the job."""
        self._share.release()
        job, self._job = self._job, None  # frees the input
        if job is None or self._end.cancelled():
            return
        waiting = self._gateway.waiting
        if isinstance(result, Accepted) and not result.replayed:
            self._accepted = Submitted(result, accepted_job(job, result), None)
            if not self._is_late:
                waiting.confirm(self.id)
                if not self._end.done():
                    self._timeouts = waiting.timeouts(self._wait_s)
                    self._timeouts.start(self._end)
                return
        elif isinstance(result, Accepted | JitneyError):
            end = self._end if self._wait_s else None
            submitted = to_submitted(self._gateway, job, result, end, self._refusal)
            if isinstance(submitted, JitneyError):
                self._failure = submitted
            else:
                self._accepted = submitted
        else:
            self._failure = result
        end_waits(self._end)

    async def _late_outcome(self) -> Job:
        """Return the outcome of a job whose end was not notified."""
        gateway, submitted = self._gateway, self._accepted
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
