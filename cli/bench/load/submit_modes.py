"""Submit modes: wait for the result in the same request, poll for it, or submit many jobs at once."""

import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import orjson

from cli.bench.load.connection import Address, Connection
from cli.bench.load.inputs import Inputs, ndjson_jobs
from cli.bench.load.target import Target
from cli.bench.load_levels import BULK, POLL

WAIT_S: Final = 10
NDJSON: Final = "application/x-ndjson"
BULK_REQUESTS: Final = 8  # distinct request bodies, used in rotation
_OPEN_STATES: Final = ("queued", "running")
_REFUSAL_STATUSES: Final = (429, 503)


class JobOutcome(NamedTuple):
    """The result of one job: the JSON of a succeeded job, or else the kind and text of the failure."""

    view: dict[str, Any] | None
    kind: str = ""
    problem: str = ""
    is_refusal: bool = False


class ExchangeResult(NamedTuple):
    """A finished exchange; `at` is the time its last byte was read."""

    at: float
    outcomes: list[JobOutcome]


@dataclass(frozen=True, slots=True)
class Exchange:
    """Requests of one mode, each with `jobs` jobs. `submit_only`: the same requests without a wait, or none."""

    jobs: int
    requests: Sequence[bytes]
    send: Callable[[Connection, bytes], Awaitable[ExchangeResult]]
    submit_only: Sequence[bytes] = ()


def build_exchange(mode: str, target: Target, inputs: Inputs, bulk_size: int) -> Exchange:
    named = "" if inputs.kind == "json" else target.model  # jobs in JSON name it themselves
    address, build = target.address, partial(build_submit_request, target.address, named)
    if mode == BULK:
        lines = itertools.cycle(ndjson_jobs(target, inputs))
        count = min(BULK_REQUESTS, len(inputs.bodies))
        build = partial(build_submit_request, address, target.model)
        bodies = [b"\n".join(itertools.islice(lines, bulk_size)) for _ in range(count)]
        waiting, submit_only = ([build(NDJSON, body, wait_s=wait_s) for body in bodies] for wait_s in (WAIT_S, 0))
        return Exchange(bulk_size, waiting, partial(_submit_many, bulk_size), submit_only)
    pairs = list(zip(inputs.content_types, inputs.bodies, strict=True))
    if mode == POLL:
        return Exchange(1, [build(*pair, wait_s=0) for pair in pairs], partial(_submit_and_poll, address))
    return Exchange(1, [build(*pair) for pair in pairs], submit_and_wait)


def build_submit_request(address: Address, model: str, kind: str, body: bytes, *, wait_s: int = WAIT_S) -> bytes:
    """Build a complete `POST /v1/jobs` of a body of this content type, which waits `wait_s` seconds for the result.

    `model`: empty if the body names it.
    """
    query = f"?model={model}" if model else ""
    prefer = f"Prefer: wait={wait_s}\r\n" if wait_s else ""
    head = (
        f"POST {address.prefix}/v1/jobs{query} HTTP/1.1\r\n{address.head}"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n{prefer}\r\n"
    )
    return head.encode() + body


def build_poll_request(address: Address, job_id: str, wait_s: int = WAIT_S) -> bytes:
    """Build a complete `GET /v1/jobs/{id}`, a long poll."""
    path = f"{address.prefix}/v1/jobs/{job_id}?wait={wait_s}"
    return f"GET {path} HTTP/1.1\r\n{address.head}\r\n".encode()


async def submit_and_wait(connection: Connection, request: bytes) -> ExchangeResult:
    """Submit a job and read its result from the same response."""
    response = await connection.request(request)
    return ExchangeResult(response.at, [classify_job(response.status, parse_json_object(response.body))])


async def _submit_and_poll(address: Address, connection: Connection, request: bytes) -> ExchangeResult:
    response = await connection.request(request)
    job, deadline = parse_json_object(response.body), time.perf_counter() + WAIT_S
    while response.status in (200, 202) and is_open(job) and time.perf_counter() < deadline:
        response = await connection.request(build_poll_request(address, job["id"]))
        job = parse_json_object(response.body)
    return ExchangeResult(response.at, [classify_job(response.status, job)])


async def _submit_many(jobs: int, connection: Connection, request: bytes) -> ExchangeResult:
    response = await connection.request(request)
    body = parse_json_object(response.body)
    listed = body.get("jobs")
    if response.status not in (200, 202) or not isinstance(listed, list) or len(listed) != jobs:
        return ExchangeResult(response.at, [classify_job(response.status, body)] * jobs)
    return ExchangeResult(response.at, [classify_listed_job(job) for job in listed])


def classify_listed_job(job: dict[str, Any]) -> JobOutcome:
    """Classify an entry of a list of jobs; an entry without an id was not accepted."""
    if "id" in job:
        return classify_job(200, job)
    error = job.get("error") or {}
    return classify_job(error.get("status", 0), {"code": error.get("code", ""), "detail": error.get("message", "")})


def classify_job(status: int, job: dict[str, Any]) -> JobOutcome:
    """Classify a response as a result, a refusal (429, 503) or another failure."""
    state = job.get("status")
    if status == 200 and state == "succeeded":
        return JobOutcome(job)
    problem = describe_failure(status, job)
    if status in _REFUSAL_STATUSES:
        return JobOutcome(None, f"{status} {job.get('code', '')}".strip(), problem, is_refusal=True)
    return JobOutcome(None, str(status) if status != 200 else str(state), problem)


def describe_failure(status: int, job: dict[str, Any]) -> str:
    """Describe a response that is not a result: its status, code and detail."""
    state = job.get("status")
    if status == 202 or (status == 200 and is_open(job)):
        return f"{status}: the job was not done within {WAIT_S} s (it is {state or '?'})"
    if status == 200:
        error = job.get("error") or {}
        return f"the job {state or 'has no status'}: {error.get('code', '')}: {error.get('message', '')}"
    return f"{status} {job.get('code', '')}: {job.get('detail', '')}"


def is_open(job: dict[str, Any]) -> bool:
    return job.get("status") in _OPEN_STATES


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Parse a response body; return {} if it is not a JSON object."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
