"""Encodes submissions and outcomes for the Lua scripts; decodes job records, claims, handoffs, notifications."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgpack
import orjson

from jobs.contract.errors import JitneyError
from jobs.contract.job import RECORD_VERSION, ClaimedJob, ClaimResult, Handoff, Job, Outcome, Submission
from jobs.contract.lifecycle import State

log = logging.getLogger("jitney.jobs")

# Fields that every read returns, in this order. They exclude the input, and an output of more than 16 kB, whose size is
# `output_bytes` (jobs/store/outputs.py reads it).
READ_FIELDS: Final = (
    *("v", "state", "model", "version", "lane", "tenant", "created", "attempts", "started", "finished"),
    *("metadata", "output", "error", "stages", "batch_size", "output_bytes"),
)
_OUTPUT: Final = READ_FIELDS.index("output")
LISTED_FIELDS: Final = tuple(name for name in READ_FIELDS if name != "output")  # fields of a listed job
MAX_MESSAGE_CHARS: Final = 4096  # of an error message; a custom task may raise any text
_TEXT_FIELDS: Final = 10  # the first READ_FIELDS are short text; the others may be large and stay bytes
_STATES: Final = {state.value: state for state in State}  # five times as fast as State(value)
HANDOFF_PREFIX: Final = b"\x94"  # first byte of a handoff: MessagePack's array of four
MAX_TIME_US: Final = 1 << 52  # the year 2112: later times are invalid


class SubmissionEncoder:
    """Encodes submissions for `submit.lua`: all small fields in one MessagePack argument."""

    def __init__(self) -> None:
        self._pack: Callable[[tuple[str | bytes | int, ...]], bytes] = msgpack.Packer(use_bin_type=False).pack

    def submission(self, job: Submission, quota: str, logged: str) -> tuple[bytes, bytes]:
        """Return a submission's packed fields and its input. `quota`, `logged`: settings of its tenant."""
        facts = (
            *(job.id, job.model, job.version, job.lane, job.tenant, job.deadline_ms, job.kind, job.parameters),
            *(job.metadata, job.idempotency_key, job.digest, RECORD_VERSION, job.webhook, quota, logged, job.bulk),
        )
        return self._pack(facts), job.input


def outcome_args(outcome: Outcome) -> tuple[str | bytes | int, ...]:
    """Return an outcome as arguments of `finish.lua`."""
    stages = f"[{outcome.decode_ms:.3f},{outcome.batch_ms:.3f},{outcome.infer_ms:.3f}]"
    body = b"%d" % outcome.chunked_bytes if outcome.chunk_count else outcome.body
    rest = (outcome.batch_size, int(outcome.dead), outcome.after_ms, outcome.chunk_count)
    return (outcome.id, outcome.attempt, outcome.state, body, stages, *rest)


def read_claimed_job(fields: Sequence[Any]) -> ClaimedJob:
    """Decode one job of the reply of `claim.lua`."""
    job_id, attempt, kind, body, parameters, created, claimed, deadline, retries, tenant = fields
    times = (int(created), int(claimed), int(deadline))
    return ClaimedJob(
        job_id.decode(), int(attempt), kind.decode(), body, parameters, *times, int(retries), tenant.decode()
    )


def read_claim(answer: Sequence[Any]) -> ClaimResult:
    """Decode the reply of `claim.lua`."""
    more, suspects, jobs, bulk, held = answer
    return ClaimResult([read_claimed_job(fields) for fields in jobs], bool(more), bool(suspects), bulk, bool(held))


def read_handoff(data: bytes) -> tuple[str, Handoff]:
    """Decode a handoff from `submit.lua` to a worker; return its "<model> <version>" and its jobs.

    Raises ValueError for other data.
    """
    try:
        runner, free_slots, jobs, bulk = msgpack.unpackb(data, raw=True)
        return runner.decode(), Handoff([read_claimed_job(fields) for fields in jobs], int(free_slots), int(bulk))
    except (TypeError, AttributeError) as error:
        message = f"not a handoff: {data[:80]!r}"
        raise ValueError(message) from error


def read_job(job_id: str, values: Sequence[bytes | None]) -> Job | None:
    """Decode a job from the values of READ_FIELDS; None if there is no such job, or it is unreadable."""
    try:
        return _build_job(
            job_id,
            [value if value is None else value.decode() for value in values[:_TEXT_FIELDS]],
            values[_TEXT_FIELDS:],
        )
    except (ValueError, TypeError, KeyError):
        log.warning("cannot read the record of job %s", job_id)
        return None


def read_listed_job(job_id: str, values: Sequence[bytes | None]) -> Job | None:
    """Decode a job from the values of LISTED_FIELDS: without its output."""
    return read_job(job_id, [*values[:_OUTPUT], None, *values[_OUTPUT:]])


def read_notification(data: bytes) -> list[tuple[str, Job | None]]:
    """Decode a notification of finished jobs: each id, and its job if the notification includes it.

    Raises ValueError for other data.
    """
    try:
        return [_read_notified_job(job_id.decode(), values) for job_id, *values in msgpack.unpackb(data, raw=True)]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(repr(error)) from error


def _read_notified_job(job_id: str, values: Sequence[bytes | Literal[False]]) -> tuple[str, Job | None]:
    if not values:
        return job_id, None
    texts = [value.decode() if value else None for value in values[:_TEXT_FIELDS]]
    return job_id, _build_job(job_id, texts, [value or None for value in values[_TEXT_FIELDS:]])


def read_logged_job(logged: Sequence[str | Literal[False]]) -> Job | None:
    """Decode a job logged as JSON: its id, and the values that `read_job` takes. Raises ValueError."""
    try:
        job_id, *values = logged
        return _read_notified_job(str(job_id), [value.encode() if value else False for value in values])[1]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(repr(error)) from error


def _build_job(job_id: str, texts: Sequence[str | None], parts: Sequence[bytes | None]) -> Job | None:
    v, state, model, version, lane, tenant, created, attempts, started, finished = texts
    metadata, output, error, stages, batch_size, *more = parts
    if v != RECORD_VERSION or not (state and model and version and lane and tenant and created and attempts):
        return None
    return Job(
        job_id,
        _STATES[state],
        model,
        version,
        lane,
        tenant,
        _parse_us(created),
        int(attempts),
        metadata or b"{}",
        _parse_us(started) if started else None,
        _parse_us(finished) if finished else None,
        output,
        error,
        orjson.loads(stages) if stages else None,
        int(batch_size) if batch_size else None,
        int(more[0]) if more and more[0] else None,
    )


def _parse_us(text: str | bytes) -> int:
    us = int(text)
    if not 0 <= us < MAX_TIME_US:
        message = f"{us} is not a valid time"
        raise ValueError(message)
    return us


def error_body(error: JitneyError) -> bytes:
    """Encode an error as a job stores it: `{code, message, status}`, and `limit` if the error has one."""
    limit = {"limit": error.details["limit"]} if "limit" in error.details else {}
    return orjson.dumps(
        {"code": error.code, "message": error.message[:MAX_MESSAGE_CHARS], "status": error.status, **limit}
    )
