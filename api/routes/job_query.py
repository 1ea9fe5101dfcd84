"""Serves `POST /v1/jobs/query`: reads many jobs by their ids, or waits until some or all of them are final."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import receive_body, to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import RETRY_AFTER_HEADER, HttpResponse
from api.asgi.tenant_budgets import BudgetShare
from api.gateway.gateway import Gateway
from api.submission.multi_job import job_entries
from jobs.contract.errors import Refused
from jobs.contract.ids import JOB_ID, shard_of
from jobs.contract.job import Job
from jobs.contract.json_reader import read_object

PATH: Final = "/v1/jobs/query"
FIELDS: Final = ("ids", "wait", "min_final")
MAX_ID_BYTES: Final = 64  # of a body, per id: an id has 34 characters
MAX_OTHER_BYTES: Final = 1024  # of a body, beside its ids


class JobQuery(NamedTuple):
    """The jobs to read. With `wait_s`, answer once `min_final` of them are final."""

    ids: Sequence[str]
    wait_s: float
    min_final: int


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(tags=["jobs"])

    @routes.post(PATH, summary="Read many jobs by their ids, or wait for their ends")
    async def query_jobs(http: HttpRequest) -> Response:
        """Return the jobs in the order of their ids, each as it stands or with the error that its own GET has.

        With `wait`, answer once `min_final` of them are final (all unless it is given), or when the wait is over.
        """
        request, settings = Request(http.scope), gateway.settings
        request.query()
        if request.content_type != "application/json":
            message = f"content type {request.content_type[:80]!r} is not supported"
            raise Refused("unsupported_media_type", message, allowed=["application/json"])
        limit = settings.max_jobs_per_request
        body = await receive_body(http, gateway.bodies, limit * MAX_ID_BYTES + MAX_OTHER_BYTES)
        query = read_query(read_object(body, "the body"), limit, settings.max_wait_s)
        with gateway.awaited.hold(request.tenant, request.evict) as awaited:
            found = await find_jobs(gateway, request.tenant, query, awaited)
        results = [found[job_id] or gateway.store.unknown(job_id[:MAX_ID_BYTES]) for job_id in query.ids]
        with gateway.outputs.hold(request.tenant, request.evict) as share:
            entries = await job_entries(gateway, results, share)
        is_final = all(job is None or job.is_final for job in found.values())
        response = HttpResponse(200, orjson.dumps({"jobs": entries}), () if is_final else (RETRY_AFTER_HEADER,))
        return to_fastapi_response(response)

    return routes


def read_query(fields: Mapping[str, Any], limit: int, max_wait_s: float) -> JobQuery:
    """Validate the fields of a query; raises Refused."""
    if unknown := [name for name in fields if name not in FIELDS]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(FIELDS))
    ids = fields.get("ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(job_id, str) for job_id in ids):
        raise Refused("invalid_request", "ids must be a list of job ids, one or more", param="ids")
    if len(ids) > limit:
        message = f"the request has {len(ids)} ids, and the limit is {limit}: split it into several requests"
        raise Refused("too_many_jobs", message, limit=limit)
    wait_s = _whole_number(fields, "wait", 0, f"0 or more; longer waits are cut to {max_wait_s:g} s")
    different = len({*ids})
    min_final = _whole_number(fields, "min_final", different, "1 or more")
    if not min_final:
        raise Refused("invalid_request", "min_final must be a whole number, 1 or more", param="min_final")
    return JobQuery(ids, min(wait_s, max_wait_s), min(min_final, different))


def _whole_number(fields: Mapping[str, Any], name: str, default: int, allowed: str) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Refused("invalid_request", f"{name} must be a whole number, {allowed}", param=name)
    return value


async def find_jobs(gateway: Gateway, tenant: str, query: JobQuery, awaited: BudgetShare) -> dict[str, Job | None]:
    """Return the tenant's jobs by id, None for unknown ids and those of others, without large outputs.

    With a wait, `awaited` holds the jobs that are not final. Raises OverLimit if they are too many.
    """
    shards = gateway.store.settings.shards
    ids = [each for each in dict.fromkeys(query.ids) if JOB_ID.fullmatch(each) and shard_of(each) < shards]
    if not query.wait_s:
        return _own_jobs(query, tenant, dict(zip(ids, await gateway.store.read(ids), strict=True)))
    awaited.grow(len(ids))
    waiting = gateway.waiting
    ends = {job_id: waiting.expect(job_id) for job_id in ids}  # before the read, so that no notification is missed
    try:
        found = _own_jobs(query, tenant, await gateway.store.wait_for_many(ids, gateway.id))
        still_open = [job_id for job_id, job in found.items() if job is not None and not job.is_final]
        missing = query.min_final - (len(found) - len(still_open))
        if still_open and missing > 0:
            waiting.forget_all([(job_id, end) for job_id, end in ends.items() if job_id not in still_open])
            awaited.resize(len(still_open))
            for job_id in still_open:
                waiting.confirm(job_id)
            ended = await waiting.wait_for_ends([ends[job_id] for job_id in still_open], missing, query.wait_s)
            found |= {job.id: job for job in ended}
            still_open = [*{*still_open} - {job.id for job in ended}]
            found |= zip(still_open, await gateway.store.read(still_open), strict=True)
    finally:
        waiting.forget_all(ends.items())
    return found


def _own_jobs(query: JobQuery, tenant: str, found: Mapping[str, Job | None]) -> dict[str, Job | None]:
    """Return an entry for each id of the query: None if it is unknown, or the job is another tenant's."""
    jobs = {job_id: found.get(job_id) for job_id in query.ids}
    return {job_id: job if job is not None and job.tenant == tenant else None for job_id, job in jobs.items()}
