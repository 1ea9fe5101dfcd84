"""Takes jobs, one or many in one step, and gives their outcomes: a value for each, so that each stands for itself."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

from api.gateway.gateway import Gateway
from api.gateway.job_waiters import Future, send_home
from jobs.contract.errors import JitneyError, OverLimit, QueueFull, Refused, StoreUnavailable, contain
from jobs.contract.job import Accepted, Job, Lane, Submission
from jobs.contract.job_request import Draft
from jobs.contract.lifecycle import State
from jobs.store.admission import admit, check_key

log = logging.getLogger("jitney.api")

T = TypeVar("T")
LOST_RETRY_AFTER_S: Final = 1
TURN: Final = 50  # jobs of one request that are read in a row; then others have their turn


class Taken(NamedTuple):
    """A job that was taken just now, or that a key had made before, and how its end is heard of; None: nobody waits."""

    accepted: Accepted
    job: Job
    end: Future | None


async def take(gateway: Gateway, tenant: str, draft: Draft, idempotency_key: str, *, waits: bool) -> Taken:
    """Take the job that a draft asks for; raises JitneyError. Who waits asks for its outcome at once."""
    check_key(idempotency_key)
    job = _admit(gateway, tenant, draft, idempotency_key)
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
    return sure(_taken(gateway, job, verdict, end, closed))


async def take_many(
    gateway: Gateway, tenant: str, drafts: Iterable[Draft | JitneyError], idempotency_key: str, *, waits: bool
) -> list[Taken | JitneyError]:
    """Take many jobs in one step. Each has the request's key and its place, with a space between, as no key has."""
    check_key(idempotency_key)
    asked: list[Submission | JitneyError] = []
    for place, draft in enumerate(drafts, 1):
        key = f"{idempotency_key} {place}" if idempotency_key else ""
        asked.append(_admit_or_not(gateway, tenant, draft, key))
        if place % TURN == 0:
            await asyncio.sleep(0)
    taken = iter(await submit(gateway, [one for one in asked if isinstance(one, Submission)], waits=waits))
    return [next(taken) if isinstance(one, Submission) else one for one in asked]


async def submit(
    gateway: Gateway, submissions: Sequence[Submission], *, waits: bool = False
) -> list[Taken | JitneyError]:
    """Hand jobs in; while the server is too full for new ones, only those that a key made before are found."""
    refusals = {lane: gateway.watermark.refusal(lane) for lane in {job.lane for job in submissions}}
    closed = {lane: refusal for lane, refusal in refusals.items() if refusal is not None}
    asked = [job for job in submissions if job.idempotency_key or job.lane not in closed]
    ends = {job.id: gateway.waiting.expect(job.id) for job in asked} if waits else {}
    try:
        given = await gateway.store.submit(asked, gateway.id if waits else "", closed=closed) if asked else []
    except BaseException:
        gateway.waiting.forget_all(ends.items())
        raise
    verdicts = dict(zip((job.id for job in asked), given, strict=True))
    return [
        _taken(gateway, job, verdicts[job.id], ends.get(job.id), closed) if job.id in verdicts else closed[job.lane]
        for job in submissions
    ]


async def outcome(gateway: Gateway, taken: Taken, wait_s: float, hang_up: asyncio.Task[None] | None = None) -> Job:
    """Give a job that was taken as it stands once it is final, or the wait is over; raises JitneyError.

    `hang_up` ends when the caller is gone: the job is canceled then.
    """
    end = taken.end
    if hang_up is not None and end is not None:
        hang_up.add_done_callback(lambda _: send_home(end))
    job = await _outcome(gateway, taken, wait_s)
    if hang_up is not None and hang_up.done() and not hang_up.cancelled() and not job.is_final:
        with suppress(Refused):  # it has just ended
            await gateway.store.cancel(job.id, job.tenant)
    try:
        return await gateway.store.with_output(job)
    except StoreUnavailable:  # it was accepted: the caller must get its id
        return taken.job


async def _outcome(gateway: Gateway, taken: Taken, wait_s: float) -> Job:
    accepted, end = taken.accepted, taken.end
    if accepted.replayed or end is None:
        (found,) = await outcomes(gateway, [taken], wait_s)
        return sure(found)
    if (job := await gateway.waiting.until_final(accepted.id, end, wait_s)) is not None:
        return job
    try:
        (job,) = await gateway.store.read([accepted.id])
    except StoreUnavailable:  # it was taken: whoever asked must hear its id
        return taken.job
    return sure(job or _gone(gateway, accepted))


async def outcomes(gateway: Gateway, taken: Sequence[Taken], wait_s: float) -> list[Job | JitneyError]:
    """Give jobs that were taken as they stand once all are final, or the wait is over; raises StoreUnavailable.

    Outputs that are large are left to be read, see `JobStore.with_output`.
    """
    known: dict[str, Job | None] = {one.accepted.id: one.job for one in taken}
    ends = {one.accepted.id: one.end for one in taken if one.end is not None}
    try:
        known |= await _read(gateway, [one.accepted.id for one in taken if one.accepted.replayed])
        still_open = {job_id: end for job_id, end in ends.items() if _is_open(known[job_id])}
        if still_open:
            known |= await _ends(gateway, still_open, wait_s, known)
    finally:
        gateway.waiting.forget_all(ends.items())
    return [known[one.accepted.id] or _gone(gateway, one.accepted) for one in taken]


def sure(one: T | JitneyError) -> T:
    """Give what became of one, or raise what stood in its way."""
    if isinstance(one, JitneyError):
        raise one
    return one


async def _ends(
    gateway: Gateway, ends: Mapping[str, Future], wait_s: float, before: Mapping[str, Job | None]
) -> dict[str, Job | None]:
    """Wait for the end of all; who has not ended in time is read once more, where the store can be reached."""
    ended = await gateway.waiting.until_all_final(ends, wait_s)
    late = [job_id for job_id, job in ended.items() if job is None]
    try:
        return ended | await _read(gateway, late)
    except StoreUnavailable:  # they were taken: whoever asked must hear their ids
        return ended | {job_id: before[job_id] for job_id in late}


async def _read(gateway: Gateway, ids: Sequence[str]) -> dict[str, Job | None]:
    return dict(zip(ids, await gateway.store.read(ids), strict=True)) if ids else {}


def _is_open(job: Job | None) -> bool:
    return job is not None and not job.is_final


def _gone(gateway: Gateway, accepted: Accepted) -> JitneyError:
    if not accepted.replayed:  # taken by this very request: its caller is told to send it again, not that it never was
        message = "the queue's server has lost the job that it took, by a failover or a flush; send the request again"
        return StoreUnavailable(message, retry_after_s=LOST_RETRY_AFTER_S, job=accepted.id)
    kept = f"results are kept for {gateway.store.settings.result_ttl_s:g} s"
    message = f"job {accepted.id} of this Idempotency-Key has ended and is not run again; {kept}"
    return Refused("result_expired", message, job=accepted.id)


def _admit(gateway: Gateway, tenant: str, draft: Draft, idempotency_key: str) -> Submission:
    return admit(
        draft,
        gateway.catalogue,
        gateway.guard,
        tenant=tenant,
        idempotency_key=idempotency_key,
        shards=gateway.store.settings.shards,
        max_deadline_ms=gateway.settings.max_deadline_ms,
    )


def _admit_or_not(
    gateway: Gateway, tenant: str, draft: Draft | JitneyError, idempotency_key: str
) -> Submission | JitneyError:
    if isinstance(draft, JitneyError):
        return draft
    try:
        return _admit(gateway, tenant, draft, idempotency_key)
    except JitneyError as error:
        return error
    except Exception as error:
        log.exception("one of the jobs of a request failed unexpectedly")
        return contain(error)


def _taken(
    gateway: Gateway,
    job: Submission,
    verdict: Accepted | JitneyError,
    end: Future | None,
    closed: Mapping[Lane, QueueFull],
) -> Taken | JitneyError:
    """Say what the store's verdict on a job means for whoever sent it."""
    waiting = gateway.waiting
    if end is not None and (isinstance(verdict, JitneyError) or verdict.replayed):
        waiting.forget(job.id, end)
        end = None if isinstance(verdict, JitneyError) else waiting.expect(verdict.id)
    if isinstance(verdict, QueueFull | OverLimit):
        most = (
            gateway.store.settings.max_jobs if isinstance(verdict, QueueFull) else verdict.details.get("limit_jobs", 1)
        )
        verdict.details.setdefault("retry_after_s", gateway.pace.retry_after_s(job.model, most))
        return closed.get(job.lane, verdict) if isinstance(verdict, QueueFull) else verdict
    if isinstance(verdict, JitneyError):
        return verdict
    if end is not None:
        waiting.confirm(verdict.id)
    return Taken(verdict, _fresh(job, verdict), end)


def _fresh(submission: Submission, accepted: Accepted) -> Job:
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
