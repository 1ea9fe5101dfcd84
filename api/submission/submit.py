"""Takes jobs, one or many in one step, and gives their outcomes: a value for each, so that each stands for itself."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

from api.gateway.gateway import Gateway
from api.gateway.job_waiters import JobFuture, end_waits
from jobs.contract.errors import JitneyError, OverLimit, QueueFull, Refused, StoreUnavailable, to_jitney_error
from jobs.contract.job import Accepted, Job, Lane, Submission
from jobs.contract.job_request import JobRequest
from jobs.contract.lifecycle import State
from jobs.store.admission import admit, check_idempotency_key

log = logging.getLogger("jitney.api")

T = TypeVar("T")
LOST_RETRY_AFTER_S: Final = 1
JOBS_PER_TURN: Final = 50  # jobs of one request that are read in a row; then others have their turn


class Submitted(NamedTuple):
    """A job that was taken just now, or that a key had made before, and how its end is heard of; None: nobody waits."""

    accepted: Accepted
    job: Job
    end: JobFuture | None


async def submit_one(
    gateway: Gateway, tenant: str, job_request: JobRequest, idempotency_key: str, *, waits: bool
) -> Submitted:
    """Take the job that a draft asks for; raises JitneyError. Who waits asks for its outcome at once."""
    check_idempotency_key(idempotency_key)
    job = _admit(gateway, tenant, job_request, idempotency_key)
    refusal = gateway.watermark.refusal(job.lane)
    if refusal is not None and not idempotency_key:
        raise refusal
    closed = {} if refusal is None else {job.lane: refusal}
    # Waited for before it is submitted, so that no notice is missed.
    end = gateway.waiting.expect(job.id) if waits else None
    try:
        verdict = await gateway.submits.submit(job, gateway.id if waits else "", closed=closed)
    except BaseException:
        if end is not None:
            gateway.waiting.forget(job.id, end)
        raise
    return unwrap(_to_submitted(gateway, job, verdict, end, closed))


async def submit_many(
    gateway: Gateway,
    tenant: str,
    job_requests: Iterable[JobRequest | JitneyError],
    idempotency_key: str,
    *,
    waits: bool,
) -> list[Submitted | JitneyError]:
    """Take many jobs in one step. Each has the request's key and its place, with a space between, as no key has."""
    check_idempotency_key(idempotency_key)
    asked: list[Submission | JitneyError] = []
    for place, job_request in enumerate(job_requests, 1):
        key = f"{idempotency_key} {place}" if idempotency_key else ""
        asked.append(_try_admit(gateway, tenant, job_request, key))
        if place % JOBS_PER_TURN == 0:
            await asyncio.sleep(0)
    submitted = iter(await submit_admitted(gateway, [one for one in asked if isinstance(one, Submission)], waits=waits))
    return [next(submitted) if isinstance(one, Submission) else one for one in asked]


async def submit_admitted(
    gateway: Gateway, submissions: Sequence[Submission], *, waits: bool = False
) -> list[Submitted | JitneyError]:
    """Hand jobs in; while the server is too full for new ones, only those that a key made before are found."""
    refusals = {lane: gateway.watermark.refusal(lane) for lane in {job.lane for job in submissions}}
    closed = {lane: refusal for lane, refusal in refusals.items() if refusal is not None}
    asked = [job for job in submissions if job.idempotency_key or job.lane not in closed]
    ends = {job.id: gateway.waiting.expect(job.id) for job in asked} if waits else {}
    try:
        verdict_list = await gateway.store.submit(asked, gateway.id if waits else "", closed=closed) if asked else []
    except BaseException:
        gateway.waiting.forget_all(ends.items())
        raise
    verdicts = dict(zip((job.id for job in asked), verdict_list, strict=True))
    return [
        _to_submitted(gateway, job, verdicts[job.id], ends.get(job.id), closed)
        if job.id in verdicts
        else closed[job.lane]
        for job in submissions
    ]


async def wait_for_outcome(
    gateway: Gateway, submitted: Submitted, wait_s: float, hang_up: asyncio.Task[None] | None = None
) -> Job:
    """Give a job that was taken as it stands once it is final, or the wait is over; raises JitneyError.

    `hang_up` ends when the caller is gone: the job is canceled then.
    """
    end = submitted.end
    if hang_up is not None and end is not None:
        hang_up.add_done_callback(lambda _: end_waits(end))
    job = await _outcome(gateway, submitted, wait_s)
    if hang_up is not None and hang_up.done() and not hang_up.cancelled() and not job.is_final:
        with suppress(Refused):  # it has just ended
            await gateway.store.cancel(job.id, job.tenant)
    try:
        return await gateway.store.with_output(job)
    except StoreUnavailable:  # it was accepted: the caller must get its id
        return submitted.job


async def _outcome(gateway: Gateway, submitted: Submitted, wait_s: float) -> Job:
    accepted, end = submitted.accepted, submitted.end
    if accepted.replayed or end is None:
        (found,) = await wait_for_outcomes(gateway, [submitted], wait_s)
        return unwrap(found)
    if (job := await gateway.waiting.wait_until_final(accepted.id, end, wait_s)) is not None:
        return job
    try:
        (job,) = await gateway.store.read([accepted.id])
    except StoreUnavailable:  # it was taken: whoever asked must hear its id
        return submitted.job
    return unwrap(job or _lost_job_error(gateway, accepted))


async def wait_for_outcomes(gateway: Gateway, submitted: Sequence[Submitted], wait_s: float) -> list[Job | JitneyError]:
    """Give jobs that were taken as they stand once all are final, or the wait is over; raises StoreUnavailable.

    Outputs that are large are left to be read, see `JobStore.with_output`.
    """
    known: dict[str, Job | None] = {one.accepted.id: one.job for one in submitted}
    ends = {one.accepted.id: one.end for one in submitted if one.end is not None}
    try:
        known |= await _read(gateway, [one.accepted.id for one in submitted if one.accepted.replayed])
        still_open = {job_id: end for job_id, end in ends.items() if _is_open(known[job_id])}
        if still_open:
            known |= await _wait_for_ends(gateway, still_open, wait_s, known)
    finally:
        gateway.waiting.forget_all(ends.items())
    return [known[one.accepted.id] or _lost_job_error(gateway, one.accepted) for one in submitted]


def unwrap(one: T | JitneyError) -> T:
    """Give what became of one, or raise what stood in its way."""
    if isinstance(one, JitneyError):
        raise one
    return one


async def _wait_for_ends(
    gateway: Gateway, ends: Mapping[str, JobFuture], wait_s: float, before: Mapping[str, Job | None]
) -> dict[str, Job | None]:
    """Wait for the end of all; who has not ended in time is read once more, where the store can be reached."""
    ended = await gateway.waiting.wait_until_all_final(ends, wait_s)
    late = [job_id for job_id, job in ended.items() if job is None]
    try:
        return ended | await _read(gateway, late)
    except StoreUnavailable:  # they were taken: whoever asked must hear their ids
        return ended | {job_id: before[job_id] for job_id in late}


async def _read(gateway: Gateway, ids: Sequence[str]) -> dict[str, Job | None]:
    return dict(zip(ids, await gateway.store.read(ids), strict=True)) if ids else {}


def _is_open(job: Job | None) -> bool:
    return job is not None and not job.is_final


def _lost_job_error(gateway: Gateway, accepted: Accepted) -> JitneyError:
    if not accepted.replayed:  # taken by this very request: its caller is told to send it again, not that it never was
        message = "the queue's server has lost the job that it took, by a failover or a flush; send the request again"
        return StoreUnavailable(message, retry_after_s=LOST_RETRY_AFTER_S, job=accepted.id)
    kept = f"results are kept for {gateway.store.settings.result_ttl_s:g} s"
    message = f"job {accepted.id} of this Idempotency-Key has ended and is not run again; {kept}"
    return Refused("result_expired", message, job=accepted.id)


def _admit(gateway: Gateway, tenant: str, job_request: JobRequest, idempotency_key: str) -> Submission:
    return admit(
        job_request,
        gateway.catalog,
        gateway.address_policy,
        tenant=tenant,
        idempotency_key=idempotency_key,
        shards=gateway.store.settings.shards,
        max_deadline_ms=gateway.settings.max_deadline_ms,
    )


def _try_admit(
    gateway: Gateway, tenant: str, job_request: JobRequest | JitneyError, idempotency_key: str
) -> Submission | JitneyError:
    if isinstance(job_request, JitneyError):
        return job_request
    try:
        return _admit(gateway, tenant, job_request, idempotency_key)
    except JitneyError as error:
        return error
    except Exception as error:
        log.exception("one of the jobs of a request failed unexpectedly")
        return to_jitney_error(error)


def _to_submitted(
    gateway: Gateway,
    job: Submission,
    verdict: Accepted | JitneyError,
    end: JobFuture | None,
    closed: Mapping[Lane, QueueFull],
) -> Submitted | JitneyError:
    """Say what the store's verdict on a job means for whoever sent it."""
    waiting = gateway.waiting
    if end is not None and (isinstance(verdict, JitneyError) or verdict.replayed):
        waiting.forget(job.id, end)
        end = None if isinstance(verdict, JitneyError) else waiting.expect(verdict.id)
    if isinstance(verdict, QueueFull | OverLimit):
        most = (
            gateway.store.settings.max_jobs if isinstance(verdict, QueueFull) else verdict.details.get("limit_jobs", 1)
        )
        verdict.details.setdefault("retry_after_s", gateway.retry_after.retry_after_s(job.model, most))
        return closed.get(job.lane, verdict) if isinstance(verdict, QueueFull) else verdict
    if isinstance(verdict, JitneyError):
        return verdict
    if end is not None:
        waiting.confirm(verdict.id)
    return Submitted(verdict, _accepted_job(job, verdict), end)


def _accepted_job(submission: Submission, accepted: Accepted) -> Job:
    """Show a job that was just accepted, without reading it back."""
    return Job(
        id=accepted.id,
        state=State.QUEUED,
        model=submission.model,
        version=submission.version,
        lane=submission.lane,
        tenant=submission.tenant,
        created_us=accepted.created_us,
        attempts=0,
        metadata=submission.metadata,
    )
