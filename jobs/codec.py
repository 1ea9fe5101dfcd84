"""Job ⇄ the fields of its hash. Inputs and outputs stay the bytes they were; nothing is pickled."""

import logging
from collections.abc import Sequence
from typing import Any, Final

import orjson

from jobs.errors import JitneyError
from jobs.job import RECORD_VERSION, Claimed, Job, Outcome, Submission
from jobs.lifecycle import State

log = logging.getLogger("jitney.jobs")

# What a reader asks for, in this order. The input is never among it.
READ_FIELDS: Final = (
    *("v", "state", "model", "version", "lane", "tenant", "created", "attempts", "metadata"),
    *("started", "finished", "output", "error", "stages", "batch_size"),
)
LATEST_US: Final = 1 << 52  # the year 2112: what is later is no time of ours


def submit_words(job: Submission) -> tuple[str | bytes | int, ...]:
    """List a submission as `submit.lua` takes it."""
    return (
        *(job.id, job.model, job.version, job.lane, job.tenant, job.deadline_ms, job.kind, job.input),
        *(job.parameters, job.metadata, job.idempotency_key, job.digest, RECORD_VERSION),
    )


def outcome_words(outcome: Outcome) -> tuple[str | bytes | int, ...]:
    """List an outcome as `finish.lua` takes it."""
    stages = f"[{outcome.decode_ms:.3f},{outcome.batch_ms:.3f},{outcome.infer_ms:.3f}]"
    rest = (outcome.batch_size, int(outcome.dead), outcome.after_ms)
    return (outcome.id, outcome.attempt, outcome.state, outcome.body, stages, *rest)


def read_claimed(fields: Sequence[Any]) -> Claimed:
    """Read one job of `claim.lua`'s answer."""
    job_id, attempt, kind, body, parameters, *numbers = fields
    return Claimed(job_id.decode(), int(attempt), kind.decode(), body, parameters, *map(int, numbers))


def read_job(job_id: str, values: Sequence[bytes | None]) -> Job | None:
    """Read a job from the values of READ_FIELDS; None where there is no such job, or no readable one."""
    if values[0] != RECORD_VERSION.encode() or None in values[1:8]:
        return None
    try:
        return _read_job(job_id, values)
    except (ValueError, TypeError):
        log.warning("the record of job %s can not be read", job_id)
        return None


def read_notice(data: bytes) -> list[tuple[str, Job | None]]:
    """Read which jobs have ended: each with its id, and as `read_job` gives it where it rode along.

    Raises ValueError where this is no notice.
    """
    told = orjson.loads(data)
    if not isinstance(told, list) or not all(isinstance(job, list) and job for job in told):
        message = f"no notice: {data[:80]!r}"
        raise ValueError(message)
    return [(job_id, read_job(job_id, [*map(_bytes, values)]) if values else None) for job_id, *values in told]


def _bytes(value: Any) -> bytes | None:
    return value.encode() if isinstance(value, str) else None


def _read_job(job_id: str, values: Sequence[bytes | None]) -> Job:
    head = [value.decode() for value in values[1:8] if value is not None]
    state, model, version, lane, tenant, created, attempts = head
    metadata, started, finished, output, error, stages, batch_size = values[8:]
    return Job(
        id=job_id,
        state=State(state),
        model=model,
        version=version,
        lane=lane,
        tenant=tenant,
        created_us=_time(created),
        attempts=int(attempts),
        metadata=metadata or b"{}",
        started_us=_time(started) if started else None,
        finished_us=_time(finished) if finished else None,
        output=output,
        error=error,
        stages_ms=orjson.loads(stages) if stages else None,
        batch_size=int(batch_size) if batch_size else None,
    )


def _time(text: str | bytes) -> int:
    us = int(text)
    if not 0 <= us < LATEST_US:
        message = f"{us} is no time"
        raise ValueError(message)
    return us


def error_body(error: JitneyError) -> bytes:
    """Write an error as a job carries it: `{code, message, status}`."""
    return orjson.dumps({"code": error.code, "message": error.message, "status": error.status})
