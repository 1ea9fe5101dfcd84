"""The two hot doors, each one ASGI callable that owns its whole route: submit a job, read a job.

FastAPI's router, validation and response classes cost several times what the work behind these doors costs
(docs/decisions/0004); every other route goes through FastAPI. OpenAPI learns of these from `api/openapi/document.py`.
"""

import time

import orjson

from api.asgi.request import Request, cached
from api.asgi.responses import (
    RETRY_AFTER,
    Answer,
    App,
    Header,
    Receive,
    Scope,
    Send,
    accepted,
    adding,
    guarded,
    problem,
)
from api.asgi.tenant_budgets import Share
from api.auth.access_control import Doorman
from api.gateway.gateway import Gateway
from api.submission import multi_job
from api.submission.parsing import read_draft
from api.submission.submit import Taken, outcome, take, take_many
from jobs.contract.errors import JitneyError, Refused
from jobs.contract.job_view import job_view
from jobs.contract.lifecycle import State

PATH = "/v1/jobs"


class Hot:
    """Stands before an app: nothing gets in past the doorman, and the hot routes it takes itself."""

    def __init__(self, app: App, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway
        store, self._requests = gateway.store, gateway.requests
        self._doorman = Doorman(gateway.callers, store.tenants, store.settings.tenant_window_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in who may come, and route by method and path."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request, path, method = Request(scope), scope["path"], scope["method"]
        under_way: Share | None = None
        try:
            caller = scope["caller"] = self._doorman.admit(request)
            headers, refusal = self._doorman.charge(caller, time.monotonic())
            send = adding(send, headers) if headers else send
            if refusal is not None:
                raise refusal
            if caller is not None:
                under_way = self._requests.hold(caller.tenant, request.evict)
                under_way.grow(1)
        except JitneyError as error:
            return await problem(error, path).send(scope, send)
        try:
            if path == PATH and method == "POST":
                answer = await guarded(submit(self._gateway, request, receive), path)
                return await answer.send(scope, send)
            if method == "GET" and path.startswith(PATH + "/") and "/" not in path[len(PATH) + 1 :]:
                answer = await guarded(read(self._gateway, request), path)
                return await answer.send(scope, send)
            return await self._app(scope, receive, send)
        finally:
            if under_way is not None:
                under_way.resize(0)


async def submit(gateway: Gateway, request: Request, receive: Receive) -> Answer:
    """`POST /v1/jobs`: 202 with the job, or all; with `Prefer: wait=N` 200 once it is final, 202 when N ran out."""
    settings = gateway.settings
    prefer = request.header(b"prefer")
    wish = _prefer_wait(prefer) if prefer else ""
    wait_s = _wait_seconds(wish, settings.max_wait_s) if wish else 0
    headers: list[Header] = [(b"preference-applied", b"wait=%d" % wait_s)] if wish else []
    with gateway.awaited.hold(request.tenant, request.evict) as awaited:
        taken = await _take(gateway, request, receive, awaited if wait_s else None)
        if not isinstance(taken, Taken):
            return await multi_job.answer(gateway, taken, wait_s, headers)
    job = await outcome(gateway, taken, wait_s)
    headers.append((b"location", f"{PATH}/{job.id}".encode()))
    if taken.accepted.replayed:
        headers.append((b"idempotent-replayed", b"true"))
    return accepted(orjson.dumps(job_view(job)), headers, is_final=wait_s > 0 and job.is_final)


async def _take(
    gateway: Gateway, request: Request, receive: Receive, awaited: Share | None
) -> Taken | list[Taken | JitneyError]:
    """Receive the body and hand the job in, or all of them; who waits then holds the body no longer.

    `awaited` counts the jobs of a request that brings many and waits for them; None: it does not wait.
    """
    settings, key, waits = gateway.settings, request.header(b"idempotency-key"), awaited is not None
    with gateway.hold_body(request, key) as held:
        body = await request.body(receive, held, settings.max_body_bytes)
        if multi_job.is_many(request, body):
            drafts = multi_job.read_drafts(request, body, settings.max_request_jobs)
            if awaited is not None:
                awaited.grow(len(drafts.given))
            return await take_many(gateway, request.tenant, drafts.read(), key, waits=waits)
        return await take(gateway, request.tenant, await read_draft(request, body), key, waits=waits)


async def read(gateway: Gateway, request: Request) -> Answer:
    """`GET /v1/jobs/{id}`: the job as it stands; with `?wait=N`, at most so many seconds later, once it is final."""
    job_id = request.path[len(PATH) + 1 :]
    wish = request.query("wait").get("wait")
    wait_s = _wait_seconds(wish, gateway.settings.max_wait_s) if wish is not None else 0
    job = await (gateway.wait(request.tenant, job_id, wait_s) if wait_s else gateway.read(request.tenant, job_id))
    position = await gateway.store.position(job) if job.state == State.QUEUED else None
    headers = () if job.is_final else (RETRY_AFTER,)
    return Answer(200, orjson.dumps(job_view(job, position)), headers)


@cached(64)
def _prefer_wait(prefer: str) -> str:
    """Find the value of `wait` in a Prefer header (RFC 7240); an empty string where it is not there."""
    for preference in prefer.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            return value.strip().strip('"') or "?"
    return ""


def _wait_seconds(text: str, limit_s: float) -> float:
    """Read how long a caller wants to wait, cut to the limit; raises Refused."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        message = f"wait must be a whole number of seconds, 0 or more (at most {limit_s:g} are waited)"
        raise Refused("invalid_request", message, limit_s=limit_s)
    return min(float(text), limit_s)
