"""How a job is handed in and its end heard of, by mode: in one request, by polling, or many at once."""

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
BULK_REQUESTS: Final = 8  # different ones, used in turn
_OPEN_STATES: Final = ("queued", "running")
_REFUSAL_STATUSES: Final = (429, 503)


class JobOutcome(NamedTuple):
    """What became of one job: the service's view of it where it has a result, else what kind of failure, in words."""

    view: dict[str, Any] | None
    kind: str = ""
    problem: str = ""
    is_refusal: bool = False


class ExchangeResult(NamedTuple):
    """One exchange that is over; `at`: when the last byte of its last answer was read."""

    at: float
    verdicts: list[JobOutcome]


@dataclass(frozen=True, slots=True)
class Exchange:
    """Each of the `requests` carries `jobs`; `submit_only`: the same without a wait, where that is measured."""

    jobs: int
    requests: Sequence[bytes]
    send: Callable[[Connection, bytes], Awaitable[ExchangeResult]]
    submit_only: Sequence[bytes] = ()


def build_exchange(mode: str, target: Target, inputs: Inputs, bulk_size: int) -> Exchange:
    """All that one mode sends."""
    address, make = target.address, partial(build_submit_request, target.address, target.model)
    if mode == BULK:
        lines = itertools.cycle(ndjson_jobs(target, inputs))
        count = min(BULK_REQUESTS, len(inputs.bodies))
        bodies = [b"\n".join(itertools.islice(lines, bulk_size)) for _ in range(count)]
        waiting, submit_only = ([make(NDJSON, body, wait_s=wait_s) for body in bodies] for wait_s in (WAIT_S, 0))
        return Exchange(bulk_size, waiting, partial(_submit_many, bulk_size), submit_only)
    pairs = list(zip(inputs.content_types, inputs.bodies, strict=True))
    if mode == POLL:
        return Exchange(1, [make(*pair, wait_s=0) for pair in pairs], partial(_submit_and_poll, address))
    return Exchange(1, [make(*pair) for pair in pairs], submit_and_wait)


def build_submit_request(
    address: Address, model: str, content_type: str, body: bytes, *, wait_s: int = WAIT_S
) -> bytes:
    """One whole `POST /v1/jobs`, which waits for its answer or, with 0, for nothing."""
    prefer = f"Prefer: wait={wait_s}\r\n" if wait_s else ""
    head = (
        f"POST {address.prefix}/v1/jobs?model={model} HTTP/1.1\r\n{address.head}"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{prefer}\r\n"
    )
    return head.encode() + body


def build_poll_request(address: Address, job_id: str, wait_s: int = WAIT_S) -> bytes:
    """One whole `GET /v1/jobs/{id}`, a long poll."""
    path = f"{address.prefix}/v1/jobs/{job_id}?wait={wait_s}"
    return f"GET {path} HTTP/1.1\r\n{address.head}\r\n".encode()


async def submit_and_wait(connection: Connection, request: bytes) -> ExchangeResult:
    """The answer comes in the same request."""
    answer = await connection.ask(request)
    return ExchangeResult(answer.at, [classify_job(answer.status, parse_json_object(answer.body))])


async def _submit_and_poll(address: Address, connection: Connection, request: bytes) -> ExchangeResult:
    answer = await connection.ask(request)
    job, until = parse_json_object(answer.body), time.perf_counter() + WAIT_S
    while answer.status in (200, 202) and is_open(job) and time.perf_counter() < until:
        answer = await connection.ask(build_poll_request(address, job["id"]))
        job = parse_json_object(answer.body)
    return ExchangeResult(answer.at, [classify_job(answer.status, job)])


async def _submit_many(jobs: int, connection: Connection, request: bytes) -> ExchangeResult:
    answer = await connection.ask(request)
    body = parse_json_object(answer.body)
    listed = body.get("jobs")
    if answer.status not in (200, 202) or not isinstance(listed, list) or len(listed) != jobs:
        return ExchangeResult(answer.at, [classify_job(answer.status, body)] * jobs)
    return ExchangeResult(answer.at, [classify_listed_job(one) for one in listed])


def classify_listed_job(job: dict[str, Any]) -> JobOutcome:
    """Judge one job of a list, which may be one that was not taken."""
    if "id" in job:
        return classify_job(200, job)
    error = job.get("error") or {}
    return classify_job(error.get("status", 0), {"code": error.get("code", ""), "detail": error.get("message", "")})


def classify_job(status: int, job: dict[str, Any]) -> JobOutcome:
    """Tell a result from a refusal (429, 503) and from any other failure."""
    state = job.get("status")
    if status == 200 and state == "succeeded":
        return JobOutcome(job)
    problem = describe_failure(status, job)
    if status in _REFUSAL_STATUSES:
        return JobOutcome(None, f"{status} {job.get('code', '')}".strip(), problem, is_refusal=True)
    return JobOutcome(None, str(status) if status != 200 else str(state), problem)


def describe_failure(status: int, job: dict[str, Any]) -> str:
    """What an answer that is no result says of itself: its code and its detail."""
    state = job.get("status")
    if status == 202 or (status == 200 and is_open(job)):
        return f"{status}: the job was not done within {WAIT_S} s (it is {state or '?'})"
    if status == 200:
        error = job.get("error") or {}
        return f"the job {state or 'is none'}: {error.get('code', '')}: {error.get('message', '')}"
    return f"{status} {job.get('code', '')}: {job.get('detail', '')}"


def is_open(job: dict[str, Any]) -> bool:
    """Whether it is yet to end."""
    return job.get("status") in _OPEN_STATES


def parse_json_object(body: bytes) -> dict[str, Any]:
    """The JSON object of an answer; an empty one where it is none."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
