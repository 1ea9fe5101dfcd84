"""Admits jobs, submits several at once and waits for their outcomes. `single_submit.py` submits one."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from api.gateway.gateway import Gateway
from api.gateway.job_waiters import JobFuture
from api.gateway.submit_coalescer import SubmitResult
from jobs.contract.errors import (
    JitneyError,
    OverLimit,
    QueueFull,
    Refused,
    RetryLater,
    StoreUnavailable,
    to_jitney_error,
)
from jobs.contract.job import Accepted, Job, Submission
from jobs.contract.job_request import JobRequest
from jobs.contract.lifecycle import State
from jobs.store.admission import admit, check_idempotency_key

log = logging.getLogger("jitney.api")

T = TypeVar("T")
LOST_RETRY_AFTER_S: Final = 1
JOBS_PER_STEP: Final = 50  # jobs of one request that are parsed before other tasks run


class Submitted(NamedTuple):
    """An accepted job, new or of an earlier request with the same key. `end` is set if the request waits for it."""

    accepted: Accepted
    job: Job
    end: JobFuture | None


async def submit_many(
    gateway: Gateway, tenant: str, job_requests: Iterable[JobRequest | JitneyError], key: str, *, waits: bool
) -> list[Submitted | JitneyError]:
    """Submit many jobs. The key of job n is `<key of the request> n`; keys of callers have no space."""
    check_idempotency_key(key)
    admitted: list[Submission | JitneyError] = []
    for number, job_request in enumerate(job_requests, 1):
        admitted.append(_try_admit(gateway, tenant, job_request, f"{key} {number}" if key else ""))
        if number % JOBS_PER_STEP == 0:
            await asyncio.sleep(0)
    submissions = [entry for entry in admitted if isinstance(entry, Submission)]
    submitted = iter(await submit_admitted(gateway, submissions, waits=waits))
    return [next(submitted) if isinstance(entry, Submission) else entry for entry in admitted]


async def submit_admitted(
    gateway: Gateway, submissions: Sequence[Submission], *, waits: bool = False
) -> list[Submitted | JitneyError]:
    """Submit admitted jobs. While a queue refuses new jobs, only jobs with a key that was used before succeed."""
    refusals = {job.id: why for job in submissions if (why := gateway.refusal(job.model, job.lane)) is not None}
    accepted = [job for job in submissions if job.id not in refusals]
    refused = [job for job in submissions if job.id in refusals and job.idempotency_key]
    ends = {job.id: gateway.waiting.expect(job.id) for job in (*accepted, *refused)} if waits else {}
    results: dict[str, SubmitResult] = {}
    try:
        for sent, closed in ((accepted, ()), (refused, {job.lane for job in refused})):
            stored = await gateway.store.submit(sent, gateway.id if waits else "", closed=closed) if sent else []
            results |= zip((job.id for job in sent), stored, strict=True)
    except BaseException:
        gateway.waiting.forget_all(ends.items())
        raise
    return [
        to_submitted(gateway, job, results[job.id], ends.get(job.id), refusals.get(job.id))
        if job.id in results
        else refusals[job.id]
        for job in submissions
    ]


async def wait_for_outcomes(gateway: Gateway, submitted: Sequence[Submitted], wait_s: float) -> list[Job | JitneyError]:
    """Return accepted jobs once all are final or the wait is over; raises StoreUnavailable.

    Large outputs are not included, see `JobStore.with_output`.
    """
    known: dict[str, Job | None] = {each.accepted.id: each.job for each in submitted}
    ends = {each.accepted.id: each.end for each in submitted if each.end is not None}
    try:
        known |= await _read(gateway, [each.accepted.id for each in submitted if each.accepted.replayed])
        still_open = {job_id: end for job_id, end in ends.items() if (job := known[job_id]) and not job.is_final}
        if still_open:
            known |= await _wait_for_ends(gateway, still_open, wait_s, known)
    finally:
        gateway.waiting.forget_all(ends.items())
    return [known[each.accepted.id] or lost_job_error(gateway, each.accepted) for each in submitted]


def unwrap(result: T | JitneyError) -> T:
    """Return a result, or raise it if it is an error."""
    if isinstance(result, JitneyError):
        raise result
    return result


async def _wait_for_ends(
    gateway: Gateway, ends: Mapping[str, JobFuture], wait_s: float, before: Mapping[str, Job | None]
) -> dict[str, Job | None]:
    """Wait until all jobs are final; those that are not in time are read once more, if Redis can be reached."""
    ended = await gateway.waiting.wait_until_all_final(ends, wait_s)
    late = [job_id for job_id, job in ended.items() if job is None]
    try:
        return ended | await _read(gateway, late)
    except StoreUnavailable:  # the jobs were accepted, so the caller must get their ids
        return ended | {job_id: before[job_id] for job_id in late}


async def _read(gateway: Gateway, ids: Sequence[str]) -> dict[str, Job | None]:
    return dict(zip(ids, await gateway.store.read(ids), strict=True)) if ids else {}


def lost_job_error(gateway: Gateway, accepted: Accepted) -> JitneyError:
    """Return the error for an accepted job that the store no longer has."""
    if not accepted.replayed:  # accepted by this request
        message = "the queue's server lost the accepted job in a failover or flush: send the request again"
        return StoreUnavailable(message, retry_after_s=LOST_RETRY_AFTER_S, job=accepted.id)
    kept = f"results are kept for {gateway.store.settings.result_ttl_s:g} s"
    message = f"job {accepted.id} of this Idempotency-Key has ended and is not run again; {kept}"
    return Refused("result_expired", message, job=accepted.id)


def admit_job(gateway: Gateway, tenant: str, job_request: JobRequest, key: str) -> Submission:
    """Return the submission for a job request; raises Refused. The caller has checked the key."""
    catalog, policy, shards = gateway.catalog, gateway.address_policy, gateway.store.settings.shards
    max_ms = gateway.settings.max_deadline_ms
    return admit(
        job_request, catalog, policy, tenant=tenant, idempotency_key=key, shards=shards, max_deadline_ms=max_ms
    )


def admit_single(
    gateway: Gateway, tenant: str, job_request: JobRequest, key: str, raw: bytes | memoryview | None = None
) -> Submission:
    """Return the submission for a request with one job; raises Refused.

    `raw`: the input, where `job_request` has none. Callers repeat the rest of such requests, so what it was admitted as
    is kept (api/gateway/known_requests.py).
    """
    if key:
        check_idempotency_key(key)
    if raw is None:
        return admit_job(gateway, tenant, job_request, key)
    card = job_request.card or gateway.catalog.find(job_request.model, job_request.version)
    job = None if key else gateway.known_requests.admit(card, tenant, job_request, raw)
    if job is None:
        job = admit_job(gateway, tenant, job_request._replace(raw=bytes(raw), card=card), key)
        if not key:
            gateway.known_requests.keep(card, tenant, job_request, job)
    return job


def _try_admit(
    gateway: Gateway, tenant: str, job_request: JobRequest | JitneyError, key: str
) -> Submission | JitneyError:
    if isinstance(job_request, JitneyError):
        return job_request
    try:
        return admit_job(gateway, tenant, job_request, key)
    except JitneyError as error:
        return error
    except Exception as error:
        log.exception("unexpected error while admitting a job of a multi-job request")
        return to_jitney_error(error)


def to_submitted(
    gateway: Gateway, job: Submission, result: SubmitResult, end: JobFuture | None, refusal: RetryLater | None
) -> Submitted | JitneyError:
    """Convert the store's result of a submit; add Retry-After to an error, and wait for the right job id.

    `refusal`: why new jobs of this queue are refused.
    """
    waiting = gateway.waiting
    if end is not None and (isinstance(result, JitneyError) or result.replayed):
        waiting.forget(job.id, end)
        end = None if isinstance(result, JitneyError) else waiting.expect(result.id)
    if isinstance(result, QueueFull | OverLimit):
        is_full = isinstance(result, QueueFull)
        limit_jobs = gateway.store.settings.max_jobs if is_full else result.details.get("limit_jobs", 1)
        result.details.setdefault("retry_after_s", gateway.retry_after.retry_after_s(job.model, limit_jobs))
        return refusal or result if is_full else result
    if isinstance(result, JitneyError):
        return result
    if end is not None:
        waiting.confirm(result.id)
    return Submitted(result, accepted_job(job, result), end)


def accepted_job(submission: Submission, accepted: Accepted) -> Job:
    """Return a job that was just accepted, without reading it from the store."""
    s, attempts = submission, 0
    created_us, metadata = accepted.created_us, s.metadata
    return Job(accepted.id, State.QUEUED, s.model, s.version, s.lane, s.tenant, created_us, attempts, metadata)
