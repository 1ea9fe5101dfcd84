"""Checks access and limits of every request; serves the hot routes (submit and read jobs, infer) without FastAPI.

FastAPI's router, validation and response classes cost several times the work of these routes
(docs/explanation/decisions/gateway-request-path.md). `api/openapi/hot_routes.py` declares them for OpenAPI.
"""

import time
from typing import NamedTuple

import orjson

from api.asgi import responses
from api.asgi.request import MAX_CACHED_BYTES, Request, cache_short
from api.asgi.request_observer import UNMATCHED
from api.asgi.responses import App, Header, Receive, Scope, Send, catch_errors
from api.asgi.tenant_budgets import BudgetShare
from api.gateway.gateway import Gateway
from api.gateway.job_responses import Response, job_response, output_response, server_timing, submitted_job_response
from api.routes import infer
from api.routes.list_queries import choose_tenant
from api.submission import multi_job
from api.submission.parsing import OCTET_STREAM, body_limit_bytes, read_job_request, read_raw_request
from api.submission.single_submit import SingleSubmit
from api.submission.submit import Submitted, admit_single, submit_many
from jobs.contract.errors import JitneyError, Refused
from jobs.contract.job import Job
from jobs.contract.job_view import job_view
from jobs.contract.lifecycle import State
from jobs.contract.request_context import REQUEST_CONTEXT, RequestContext, read_traceparent

JOBS_PATH = "/v1/jobs"
JOB_ROUTE, OUTPUT_ROUTE = f"{JOBS_PATH}/{{job_id}}", f"{JOBS_PATH}/{{job_id}}/output"


class _SubmitHead(NamedTuple):
    """What the head of a submit says. `is_raw`: the body is the input, and the query is short enough to cache."""

    wait_s: float
    limit_bytes: int
    is_raw: bool
    headers: tuple[Header, ...]  # of the response


class HotRoutes:
    """ASGI wrapper: checks access to all routes, then serves the hot routes and passes the others to the app."""

    def __init__(self, app: App, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway
        self._requests, self._access_control = gateway.requests, gateway.access_control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check access, limits and budget of a request, then route it by method and path."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request, path, method = Request(scope), scope["path"], scope["method"]
        budget_share: BudgetShare | None = None
        _remember_origin(request)
        try:
            caller = scope["caller"] = self._access_control.authorize(request)
            headers, refusal = self._access_control.count_request(caller, time.monotonic())
            send = responses.with_headers(send, headers) if headers else send
            if refusal is not None:
                raise refusal
            if caller is not None:
                budget_share = self._requests.hold(caller.tenant, request.evict)
                budget_share.grow(1)
        except JitneyError as error:
            scope["route"] = JOBS_PATH if path == JOBS_PATH else UNMATCHED
            return await responses.error_response(error, path).send(scope, send)
        try:
            if path == JOBS_PATH and method == "POST":
                scope["route"] = JOBS_PATH
                response = await catch_errors(post_job(self._gateway, request, receive), path)
                return await response.send(scope, send)
            if method == "GET" and path.startswith(JOBS_PATH + "/"):
                job_id, separator, part = path[len(JOBS_PATH) + 1 :].partition("/")
                if not separator or part == "output":
                    get, scope["route"] = (get_output, OUTPUT_ROUTE) if separator else (get_job, JOB_ROUTE)
                    response = await catch_errors(get(self._gateway, request, job_id), path)
                    return await response.send(scope, send)
            if (target := infer.read_path(path)) is not None:
                scope["route"] = target.route
                response = await catch_errors(infer.infer(self._gateway, request, receive, target), path)
                return await response.send(scope, send)
            return await self._app(scope, receive, send)
        finally:
            if budget_share is not None:
                budget_share.release()


def _remember_origin(request: Request) -> None:
    """Keep the id of a request and its place in a trace for the jobs that it submits, if its caller named them."""
    if request.given_id or b"traceparent" in request.headers:
        traceparent = read_traceparent(request.header(b"traceparent"))
        if request.given_id or traceparent:
            REQUEST_CONTEXT.set(RequestContext(request.given_id, traceparent))


async def post_job(gateway: Gateway, request: Request, receive: Receive) -> Response:
    """Handle `POST /v1/jobs`: 202 with the jobs, or with `Prefer: wait=N` 200 if they are final within N seconds."""
    wait_s, limit_bytes, is_raw, first = _read_submit_head(gateway, request)
    headers = [*first]
    submitted = await _submit_body(gateway, request, receive, wait_s, limit_bytes, is_raw=is_raw)
    if not isinstance(submitted, SingleSubmit):
        results, awaited = submitted
        with awaited:
            return await multi_job.respond_to_many(gateway, request, results, wait_s, headers)
    job = await submitted.outcome()
    request.identify(job.id)
    headers.append((b"location", f"{JOBS_PATH}/{job.id}".encode()))
    if submitted.is_replayed:
        headers.append((b"idempotent-replayed", b"true"))
    is_final = wait_s > 0 and job.is_final
    if is_final:
        headers.append(server_timing(job))
    if is_final and job.output is None and job.output_bytes:
        return await submitted_job_response(gateway, request, job, headers)
    return responses.submit_response(orjson.dumps(job_view(job)), headers, is_final=is_final)


def _read_submit_head(gateway: Gateway, request: Request) -> _SubmitHead:
    """Return what the head of a submit says; raises Refused. It is kept for a head that repeats."""
    memo = request.memo
    if memo is not None and (known := memo.get("submit")) is not None:
        head: _SubmitHead = known
        return head
    settings, prefer = gateway.settings, request.header(b"prefer")
    wait_text = _prefer_wait(prefer) if prefer else ""
    wait_s = _wait_seconds(wait_text, settings.max_wait_s) if wait_text else 0
    head = _SubmitHead(
        wait_s,
        body_limit_bytes(request, settings.max_body_bytes),
        request.content_type == OCTET_STREAM and len(request.query_string) <= MAX_CACHED_BYTES,
        ((b"preference-applied", b"wait=%d" % wait_s),) if wait_text else (),
    )
    if memo is not None:
        memo["submit"] = head
    return head


async def _submit_body(
    gateway: Gateway, request: Request, receive: Receive, wait_s: float, limit_bytes: int, *, is_raw: bool
) -> SingleSubmit | tuple[list[Submitted | JitneyError], BudgetShare]:
    """Receive the body and submit its jobs. The body is released before the wait for their outcomes.

    For a multi-job request, return also a share that counts the jobs it waits for. The caller releases it.
    """
    settings, key = gateway.settings, request.header(b"idempotency-key")
    awaited: BudgetShare | None = None
    share = gateway.reserve_body(request, key)
    try:
        body = await request.body(receive, share, limit_bytes)
        if not multi_job.is_many(request, body):
            raw = body if is_raw else None
            job_request = read_raw_request(request, body) if is_raw else await read_job_request(request, body)
            job = admit_single(gateway, request.tenant, job_request, key, raw)
            return SingleSubmit(gateway, job, wait_s=wait_s, share=share)
        job_requests = multi_job.read_job_requests(request, body, settings.max_jobs_per_request)
        awaited = gateway.awaited.hold(request.tenant, request.evict)
        if wait_s:
            awaited.grow(len(job_requests.items))
        submitted = await submit_many(gateway, request.tenant, job_requests.read(), key, waits=wait_s > 0)
    except BaseException:
        share.release()
        if awaited is not None:
            awaited.release()
        raise
    share.release()
    return submitted, awaited


async def get_job(gateway: Gateway, request: Request, job_id: str) -> Response:
    """Handle `GET /v1/jobs/{id}`: the current job, or with `?wait=N` the job once it is final or N seconds are over."""
    job = await _read_job(gateway, request, job_id)
    position = await gateway.store.position(job) if job.state == State.QUEUED else None
    headers = () if job.is_final else (responses.RETRY_AFTER_HEADER,)
    return await job_response(gateway, request, job, headers, position)


async def get_output(gateway: Gateway, request: Request, job_id: str) -> Response:
    """Handle `GET /v1/jobs/{id}/output`: the output alone, in the form that Accept names; `?wait=N` as above."""
    return await output_response(gateway, request, await _read_job(gateway, request, job_id))


async def _read_job(gateway: Gateway, request: Request, job_id: str) -> Job:
    query = request.query("wait", "tenant")
    wait_text = query.get("wait")
    wait_s = _wait_seconds(wait_text, gateway.settings.max_wait_s) if wait_text is not None else 0
    tenant = choose_tenant(request.caller, query["tenant"]) if "tenant" in query else request.tenant
    return await (gateway.wait(tenant, job_id, wait_s) if wait_s else gateway.read(tenant, job_id))


@cache_short(64)
def _prefer_wait(prefer: str) -> str:
    """Return the value of `wait` in a Prefer header (RFC 7240), or an empty string."""
    for preference in prefer.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            return value.strip().strip('"') or "?"
    return ""


def _wait_seconds(text: str, limit_s: float) -> float:
    """Parse a wait in seconds, cut to the limit; raises Refused."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        message = f"wait must be a whole number of seconds, 0 or more; longer waits are cut to {limit_s:g} s"
        raise Refused("invalid_request", message, limit_s=limit_s)
    return min(float(text), limit_s)
