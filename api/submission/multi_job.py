"""Requests that bring many jobs, as NDJSON or as a JSON array: how they are read, and how the answer shows each job.

A job that is refused is an entry of its own among the others; the request as a whole is refused where none was taken.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import orjson

from api.asgi.request import Request
from api.asgi.responses import Header, HttpResponse, error_response, submit_response
from api.gateway.gateway import Gateway
from api.submission.parsing import NDJSON
from api.submission.submit import Submitted, wait_for_outcomes
from jobs.contract.errors import JitneyError, Refused
from jobs.contract.job import LANES, Job
from jobs.contract.job_request import JobRequest, read_json_job
from jobs.contract.job_view import job_view
from jobs.contract.json_reader import BLANK, read_json

log = logging.getLogger("jitney.api")

PATH: Final = "/v1/jobs"
ARRAY: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")  # a byte order mark may stand before it
DEFAULT_FIELDS: Final = ("model", "lane")  # as query fields, for jobs that name none
LINES_PER_JOB: Final = 8  # blank lines are skipped; counted they are all the same
MAX_OUTPUTS_BYTES: Final = 32 << 20  # of large outputs in one answer


def is_many(request: Request, body: bytes) -> bool:
    """Whether a request brings many jobs."""
    kind = request.content_type
    return kind == NDJSON or (kind == "application/json" and ARRAY.match(body) is not None)


class JobRequests(NamedTuple):
    """The jobs of a request, counted; each is read when its turn comes, a broken one as its error."""

    items: Sequence[tuple[str, Any]]  # what each is called in messages, and the job, parsed or not
    model: str
    lane: str

    def read(self) -> Iterator[JobRequest | JitneyError]:
        """Read one after the other."""
        return (read_json_job(what, value, self.model, self.lane) for what, value in self.items)


def read_job_requests(request: Request, body: bytes, limit: int) -> JobRequests:
    """Find the jobs of a request; raises Refused for the request."""
    defaults = request.query(*DEFAULT_FIELDS)
    if (lane := defaults.get("lane", "interactive")) not in LANES:
        raise Refused("invalid_request", "lane must be one of the allowed words", allowed=list(LANES))
    items = _lines(body, limit) if request.content_type == NDJSON else _elements(body)
    if not items:
        raise Refused("invalid_request", "the request brings no job: send at least one")
    if len(items) > limit:
        raise _too_many(f"{len(items)} jobs", limit)
    return JobRequests(items, defaults.get("model", ""), lane)


def _lines(body: bytes, limit: int) -> list[tuple[str, Any]]:
    """List the lines that are not blank, unread, each with its name."""
    count = body.count(b"\n")
    if count > limit * LINES_PER_JOB:
        raise _too_many(f"{count} lines", limit)
    return [(f"line {number}", line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip(BLANK)]


def _elements(body: bytes) -> list[tuple[str, Any]]:
    return [(f"job {place}", value) for place, value in enumerate(read_json(body, "the body"), 1)]


def _too_many(what: str, limit: int) -> Refused:
    message = f"one request may bring {limit} jobs, and this one has {what}: send the others in another"
    return Refused("too_many_jobs", message, limit=limit)


async def respond_to_many(
    gateway: Gateway, submitted: list[Submitted | JitneyError], wait_s: float, headers: list[Header]
) -> HttpResponse:
    """Show all jobs, as sent: 202, 200 where the caller waited until all that were taken are final.

    Where none was taken: the problem of the first, with the list.
    """
    found = iter(await wait_for_outcomes(gateway, [one for one in submitted if isinstance(one, Submitted)], wait_s))
    ended = [next(found) if isinstance(one, Submitted) else one for one in submitted]
    entries = await _entries(gateway, ended)
    jobs = [one for one in ended if isinstance(one, Job)]
    if not jobs and isinstance(ended[0], JitneyError):
        return error_response(ended[0], PATH, jobs=entries)
    if all(one.accepted.replayed for one in submitted if isinstance(one, Submitted)):
        headers.append((b"idempotent-replayed", b"true"))
    return submit_response(
        orjson.dumps({"jobs": entries}), headers, is_final=wait_s > 0 and all(job.is_final for job in jobs)
    )


async def _entries(gateway: Gateway, ended: list[Job | JitneyError]) -> list[dict[str, Any]]:
    """Show each; large outputs as long as they fit, of the others a link to the job."""
    entries: list[dict[str, Any]] = []
    left_bytes = MAX_OUTPUTS_BYTES
    for one in ended:
        if isinstance(one, JitneyError):
            entries.append(_refusal(one))
            continue
        size = one.output_bytes or 0
        try:
            job = await gateway.store.with_output(one) if size <= left_bytes else one
        except Refused as error:  # its result is kept no more
            entries.append(_refusal(error))
            continue
        left_bytes -= size if job.output is not None else 0
        is_left_out = size > 0 and job.output is None
        entries.append({**job_view(job), **({"output_url": f"{PATH}/{job.id}"} if is_left_out else {})})
    return entries


def _refusal(error: JitneyError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message, "status": error.status, **error.details}}
