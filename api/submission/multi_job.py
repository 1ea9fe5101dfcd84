"""Splits a request of many jobs (NDJSON or a JSON array) into jobs, and builds the response with all results.

A refused job becomes an error entry among the other jobs. The request fails only if no job was accepted.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import orjson

from api.asgi.request import Request
from api.asgi.responses import Header, HttpResponse, build_error_response, submit_response
from api.asgi.tenant_budgets import BudgetShare
from api.gateway.gateway import Gateway
from api.submission.parsing import NDJSON
from api.submission.submit import Submitted, wait_for_outcomes
from jobs.contract.errors import JitneyError, OverLimit, Refused
from jobs.contract.job import LANES, Job
from jobs.contract.job_request import JobRequest, read_json_job
from jobs.contract.job_view import job_view, linked_view
from jobs.contract.json_reader import BLANK, read_json
from jobs.metrics.refusals import count_refusal

log = logging.getLogger("jitney.api")

PATH: Final = "/v1/jobs"
ARRAY: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")  # after an optional byte order mark
DEFAULT_FIELDS: Final = ("model", "lane")  # query fields with the defaults of all jobs
LINES_PER_JOB: Final = 8  # limit on lines, because blank lines are skipped
MAX_OUTPUTS_BYTES: Final = 32 << 20  # bytes of all outputs in one response


def is_many(request: Request, body: bytes) -> bool:
    """Return whether the body holds several jobs."""
    kind = request.content_type
    return kind == NDJSON or (kind == "application/json" and ARRAY.match(body) is not None)


class JobRequests(NamedTuple):
    """The jobs of a request, counted but not parsed yet."""

    items: Sequence[tuple[str, Any]]  # its name in messages, and the job as bytes or parsed JSON
    model: str
    lane: str

    def read(self) -> Iterator[JobRequest | JitneyError]:
        """Parse the jobs one by one; yield an error in place of an invalid job."""
        return (read_json_job(name, value, self.model, self.lane) for name, value in self.items)


def read_job_requests(request: Request, body: bytes, limit: int) -> JobRequests:
    """Split a request into its jobs; raises Refused if the request as a whole is invalid."""
    defaults = request.query(*DEFAULT_FIELDS)
    if (lane := defaults.get("lane", "interactive")) not in LANES:
        raise Refused("invalid_request", "unknown lane: see allowed", allowed=list(LANES))
    items = _lines(body, limit) if request.content_type == NDJSON else _elements(body)
    if not items:
        raise Refused("invalid_request", "the request has no job: send at least one")
    if len(items) > limit:
        raise _too_many(f"{len(items)} jobs", limit)
    return JobRequests(items, defaults.get("model", ""), lane)


def _lines(body: bytes, limit: int) -> list[tuple[str, Any]]:
    """Return the unparsed lines that are not blank, each with its name."""
    count = body.count(b"\n")
    if count > limit * LINES_PER_JOB:
        raise _too_many(f"{count} lines", limit)
    return [(f"line {number}", line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip(BLANK)]


def _elements(body: bytes) -> list[tuple[str, Any]]:
    return [(f"job {number}", value) for number, value in enumerate(read_json(body, "the body"), 1)]


def _too_many(count: str, limit: int) -> Refused:
    message = f"the request has {count}, and the limit is {limit} jobs: split it into several requests"
    return Refused("too_many_jobs", message, limit=limit)


async def respond_to_many(
    gateway: Gateway,
    request: Request,
    submitted: list[Submitted | JitneyError],
    wait_s: float,
    headers: list[Header],
) -> HttpResponse:
    """Return the response with all jobs, in order: 200 if the caller waited and all accepted jobs are final, else 202.

    If no job was accepted, return the error of the first one, with all entries.
    """
    accepted = [result for result in submitted if isinstance(result, Submitted)]
    outcomes = iter(await wait_for_outcomes(gateway, accepted, wait_s))
    results = [next(outcomes) if isinstance(result, Submitted) else result for result in submitted]
    with gateway.outputs.hold(request.tenant, request.evict) as share:
        entries = await job_entries(gateway, results, share)
        jobs = [result for result in results if isinstance(result, Job)]
        if not jobs and isinstance(results[0], JitneyError):
            return build_error_response(results[0], PATH, jobs=entries)
        if all(result.accepted.replayed for result in accepted):
            headers.append((b"idempotent-replayed", b"true"))
        is_final = wait_s > 0 and all(job.is_final for job in jobs)
        return submit_response(orjson.dumps({"jobs": entries}), headers, is_final=is_final)


async def job_entries(
    gateway: Gateway, results: Sequence[Job | JitneyError], share: BudgetShare
) -> list[dict[str, Any]]:
    """Return an entry per job. A link replaces outputs beyond `MAX_OUTPUTS_BYTES` in total, or beyond the budget."""
    entries: list[dict[str, Any]] = []
    for result in results:
        try:
            entries.append(
                _error_entry(result) if isinstance(result, JitneyError) else await _entry(gateway, result, share)
            )
        except Refused as error:  # its result has expired
            entries.append(_error_entry(error))
    return entries


async def _entry(gateway: Gateway, job: Job, share: BudgetShare) -> dict[str, Any]:
    size = job.output_bytes or 0
    if not size or job.output is not None:
        return job_view(job)
    try:
        if share.size + size <= MAX_OUTPUTS_BYTES:
            share.grow(size)
            return job_view(await gateway.store.with_output(job))
    except OverLimit:
        pass
    return linked_view(job)


def _error_entry(error: JitneyError) -> dict[str, Any]:
    count_refusal(error)
    return {"error": {"code": error.code, "message": error.message, "status": error.status, **error.details}}
