"""Encodes submissions and outcomes for the Lua scripts; decodes job records, claims, handoffs, notifications."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgpack
import orjson

from jobs.contract.errors import JitneyError
from jobs.contract.job import RECORD_VERSION, ClaimedJob, ClaimResult, Handoff, Job, Outcome, Submission
from jobs.contract.lifecycle import FINAL, State
from jobs.contract.request_context import RequestContext
from jobs.tenants.limits import NO_LIMIT

log = logging.getLogger("jitney.jobs")

# What every read returns of a record (jobs/lua/shared/common.lua), in this order: without the input, and an output of
# more than 16 kB, whose size is `output_bytes` (jobs/store/outputs.py reads it).
READ_FIELDS: Final = ("state", "head", "facts", "output", "error", "output_bytes")
_OUTPUT: Final = READ_FIELDS.index("output")
LISTED_FIELDS: Final = ("state", "head", "facts", "error", "output_bytes")  # fields of a listed job
OWN_KEY_BYTES: Final = 32 << 10  # inputs of this size and above have a key of their own; also in shared/common.lua
MAX_MESSAGE_CHARS: Final = 4096  # of an error message; a custom task may raise any text
_NONE: Final = "-"  # stands for a missing word
_NO_JSON: Final = b"{}"
# The parameters of most jobs that have any. They are a suffix of the word `kind`, which costs less than facts.
_BASE64: Final = b'{"encoding":"base64"}'
_BASE64_SUFFIX: Final = "+base64"
_NO_FACTS: Final[Mapping[str, bytes]] = MappingProxyType({})
_RECORD_VERSION: Final = int(RECORD_VERSION)
_V: Final = f"{RECORD_VERSION} ".encode()
_STATES: Final = {state.value: state for state in State}  # five times as fast as State(value)
HANDOFF_PREFIX: Final = b"\x94"  # first byte of a handoff: MessagePack's array of four
MAX_TIME_US: Final = 1 << 52  # the year 2112: later times are invalid


class JobHead(NamedTuple):
    """The words of a record that never change. `kind`: see `read_kind`."""

    v: str
    input_bytes: int
    deadline_ms: int
    created_us: int
    kind: str
    model: str
    version: str
    lane: str
    tenant: str


def read_head(head: bytes) -> JobHead:
    """Decode the field `head` of a record. Raises ValueError."""
    v, size, deadline, created, *names = head.decode().split(" ")
    kind, model, version, lane, tenant = names
    return JobHead(v, int(size), _parse_us(deadline), _parse_us(created), kind, model, version, lane, tenant)


def read_kind(word: str) -> tuple[str, bytes]:
    """Return the kind of a job's input, and the parameters to use if its facts have none."""
    kind, suffix, _ = word.partition(_BASE64_SUFFIX)
    return kind, _BASE64 if suffix else _NO_JSON


def read_facts(facts: bytes | None) -> Mapping[str, bytes]:
    """Decode the field `facts` of a record: only what differs from the default. Raises ValueError."""
    if not facts:
        return _NO_FACTS
    try:
        return {name.decode(): value for name, value in msgpack.unpackb(facts, raw=True).items()}
    except (TypeError, AttributeError, msgpack.UnpackException) as error:
        raise ValueError(repr(error)) from error


def read_input_facts(values: Sequence[bytes | None]) -> tuple[str, bytes, int]:
    """Return kind, parameters and rows of a job's input, from the values of LISTED_FIELDS. Raises ValueError."""
    _, head, facts, *_ = values
    found = read_facts(facts)
    kind, parameters = read_kind(read_head(head or b"").kind)
    return kind, found.get("parameters", parameters), int(found.get("rows", 0))


class SubmissionEncoder:
    """Encodes submissions for `submit.lua`, each as its id, its description in MessagePack, and its input."""

    def __init__(self) -> None:
        self._pack: Callable[[object], bytes] = msgpack.Packer(use_bin_type=False).pack

    def submissions(
        self, jobs: Sequence[Submission], quota_of: Callable[[str], str], listened: Collection[str]
    ) -> list[str | bytes]:
        """Return the arguments of submissions. The input is empty if it has a key of its own.

        `quota_of`: the quota of a tenant; `listened`: tenants with a client that listens to their events. A description
        that equals that of the job before is left out.
        """
        args: list[str | bytes] = []
        last: tuple[object, ...] = ()
        for job in jobs:
            quota, is_logged = quota_of(job.tenant), job.tenant in listened
            size = len(job.input)
            own_key_bytes, body = (size, b"") if size >= OWN_KEY_BYTES else (0, bytes(job.input))
            # All but the id and the input: also the key, the digest and the webhook, which differ from job to job.
            shared = (*job[1:4], *job[5:], own_key_bytes, quota, is_logged)
            if shared == last:
                args += (job.id, b"", body)
                continue
            last = shared
            args += (job.id, self._description(job, own_key_bytes, quota, is_logged=is_logged), body)
        return args

    def _description(self, job: Submission, own_key_bytes: int, quota: str, *, is_logged: bool) -> bytes:
        route = f"{job.model} {job.version} {job.lane} {job.tenant}"
        kind = job.kind + _BASE64_SUFFIX if job.parameters == _BASE64 else job.kind
        common = (route, kind, job.deadline_ms, _RECORD_VERSION, own_key_bytes)
        facts = self._facts(job, quota, is_logged=is_logged)
        if not (facts or job.idempotency_key or job.webhook or quota):
            return self._pack(common)
        return self._pack((*common, facts, job.idempotency_key, job.digest, job.webhook, quota))

    def _facts(self, job: Submission, quota: str, is_logged: bool) -> bytes:
        has_parameters = job.parameters not in (_NO_JSON, _BASE64)
        is_plain = not (has_parameters or job.rows or job.bulk or quota or is_logged) and job.metadata == _NO_JSON
        if is_plain and job.request_context is None:
            return b""
        facts: dict[str, bytes | str] = {}
        if has_parameters:
            facts["parameters"] = job.parameters
        if job.metadata != _NO_JSON:
            facts["metadata"] = job.metadata
        if job.rows:
            facts["rows"] = str(job.rows)
        if job.bulk:
            facts["bulk"] = job.bulk
        limits = quota.split(" ") if quota else []
        if len(limits) > 1:  # the most jobs and bytes
            facts["quota"] = "jobs" if limits[1] == str(NO_LIMIT) else "bytes"
        if is_logged:
            facts["logged"] = "1"
        if job.request_context is not None:
            facts |= {name: value for name, value in job.request_context._asdict().items() if value}
        return self._pack(facts) if facts else b""


def outcome_args(outcome: Outcome) -> tuple[str | bytes | int, ...]:
    """Return an outcome as arguments of `finish.lua`."""
    state, body = outcome.state.value, outcome.body
    if outcome.state is State.QUEUED:
        state = f"queued {outcome.after_ms}"
    elif outcome.chunk_count:
        state, body = f"{state} {outcome.chunk_count}", b"%d" % outcome.chunked_bytes
    elif outcome.dead:
        state += " dead"
    run = "%d %.3f,%.3f,%.3f" % (outcome.batch_size, outcome.decode_ms, outcome.batch_ms, outcome.infer_ms)  # noqa: UP031 (faster)
    return outcome.id, outcome.attempt, state, run, body


def read_claimed_job(fields: Sequence[Any]) -> ClaimedJob:
    """Decode one job of the reply of `claim.lua`. Raises ValueError."""
    job_id, attempt, words, body, claimed, *more = fields
    _, _, deadline, created, kind, _, _, _, tenant = words.decode().split(" ")
    kind, parameters = read_kind(kind)
    rows, request_context = 0, None
    if more:
        parameters, rows, request_context = _read_claimed_facts(more[0], parameters)
    times = (int(created), int(claimed), int(deadline))
    retries = int(more[1]) if len(more) > 1 else 0
    body = body if body is not False else None  # MessagePack has false where a reply has nil
    return ClaimedJob(
        job_id.decode(), int(attempt), kind, body, parameters, *times, retries, tenant, rows, request_context
    )


def _read_claimed_facts(facts: bytes, parameters: bytes) -> tuple[bytes, int, RequestContext | None]:
    """Return a claimed job's parameters, by default these, its rows and its request context.

    Unreadable facts are returned as the parameters, so that reading these fails the job.
    """
    try:
        found = read_facts(facts)
        return found.get("parameters", parameters), int(found.get("rows", 0)), read_request_context(found)
    except ValueError:
        return facts, 0, None


def read_request_context(facts: Mapping[str, bytes]) -> RequestContext | None:
    """Return the request that a job comes from, if its facts name it."""
    request_id, traceparent = facts.get("request_id", b""), facts.get("traceparent", b"")
    return RequestContext(request_id.decode(), traceparent.decode()) if request_id or traceparent else None


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
        return _build_job(job_id, *values)
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


def _read_notified_job(job_id: str, values: Sequence[Any]) -> tuple[str, Job | None]:
    """Return the job of a notification, which leaves out the last fields that it lacks, or all of a large job."""
    return job_id, _build_job(job_id, *values) if values else None


def read_logged_job(logged: bytes) -> Job | None:
    """Decode a job as a delivery has it: its id, and the values that `read_job` takes. Raises ValueError."""
    try:
        job_id, *values = msgpack.unpackb(logged, raw=True)
        return _read_notified_job(job_id.decode(), values)[1]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(repr(error)) from error


def read_outcome(packed: bytes) -> tuple[str, str | None, list[Any]]:
    """Decode an outcome that `completion.lua` logged: id and custom_id of a bulk job's line, and values.

    The values: state and error of a line that did not run, or what `read_line_job` takes. Raises ValueError.
    """
    try:
        line_id, custom_id, *values = msgpack.unpackb(packed, raw=True)
        return line_id.decode(), custom_id.decode() if custom_id else None, values
    except (TypeError, AttributeError, msgpack.UnpackException) as error:
        raise ValueError(repr(error)) from error


def read_line_job(line_id: str, values: Sequence[Any]) -> tuple[Job | None, int]:
    """Return the job that a line was, and the number of chunks of its output. Raises ValueError for other values."""
    *fields, chunks = values
    return _read_notified_job(line_id, fields)[1], int(chunks or 0)


def _build_job(  # noqa: PLR0917
    job_id: str,
    state: bytes | None,
    head: bytes | None,
    facts: bytes | None,
    output: bytes | None = None,
    error: bytes | None = None,
    output_bytes: bytes | None = None,
) -> Job | None:
    """Build a job of the values of READ_FIELDS; MessagePack has False where a reply has None."""
    if not state or not head or not head.startswith(_V):
        return None
    name, attempts, owner, started, *rest = state.decode().split(" ")
    _, _, _, created, route = head.split(b" ", 4)
    model, version, lane, tenant = _read_route(route)
    more = read_facts(facts) if facts else _NO_FACTS
    finished, batch_size, stages = rest[:3] if name in FINAL else (_NONE, _NONE, _NONE)
    return Job(
        job_id,
        _STATES[name],
        model,
        version,
        lane,
        tenant,
        _parse_us(created),
        int(attempts),
        more.get("metadata", _NO_JSON),
        None if started == _NONE else _parse_us(started),
        None if finished == _NONE else _parse_us(finished),
        output or None,
        error or None,
        None if stages == _NONE else _parse_stages(stages),
        None if batch_size == _NONE else int(batch_size),
        int(output_bytes) if output_bytes else None,
        "" if owner == _NONE else owner,
        read_request_context(more) if facts else None,
    )


@lru_cache(1024)
def _read_route(words: bytes) -> tuple[str, str, str, str]:
    """Return model, version, lane and tenant of the last words of a head; cached, because many jobs share them."""
    _, model, version, lane, tenant = words.decode().split(" ")
    return model, version, lane, tenant


def _parse_stages(stages: str) -> tuple[float, float, float]:
    decode, batch, infer = stages.split(",")
    return float(decode), float(batch), float(infer)


def _parse_us(text: str | bytes) -> int:
    us = int(text)
    if not 0 <= us < MAX_TIME_US:
        message = f"{us} is not a valid time"
        raise ValueError(message)
    return us


def error_body(error: JitneyError) -> bytes:
    """Encode an error as a job stores it: `{code, message, status}`, `limit` and `row` if the error has them."""
    details = {name: error.details[name] for name in ("limit", "row") if name in error.details}
    return orjson.dumps(
        {"code": error.code, "message": error.message[:MAX_MESSAGE_CHARS], "status": error.status, **details}
    )
