"""Routes of dead letters: list, read, download the input, replay and purge, one by one or by filter."""

from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Query, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import json_response, to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import Header, HttpResponse
from api.auth.audit import log_change
from api.auth.authentication import Caller
from api.gateway.gateway import Gateway
from api.routes import list_queries
from api.routes.list_queries import All, Cursor, Limit, RequestedTenant, read_cursor, read_time, write_cursor
from api.submission import replay
from api.submission.replay import ReplayResult
from api.submission.submit import unwrap, wait_for_outcomes
from jobs.contract import audio_formats, image_formats
from jobs.contract.errors import DEAD_LETTER_CODES, Refused
from jobs.contract.ids import JOB_ID
from jobs.contract.job_view import job_view
from jobs.store import dead_letters
from jobs.store.dead_letters import DeadLetter, DeadLetterFilter

PATH: Final = "/v1/deadletters"
FILTER_FIELDS: Final = ("model", "code", "since", "until", "replayed")
MAX_PURGED: Final = 1000  # dead letters purged per call
_BOOLEANS: Final = {"true": True, "false": False}
_CODES: Final[dict[str, Any]] = {"enum": sorted(DEAD_LETTER_CODES)}  # for the OpenAPI document
_IS_REPLAYED: Final[dict[str, Any]] = {"enum": list(_BOOLEANS)}


def read_filters(
    model: Annotated[str, Query(description="name of the model")] = "",
    code: Annotated[str, Query(description="error of the job", json_schema_extra=_CODES)] = "",
    since: Annotated[str, Query(description=f"ended at this time or later: {list_queries.TIME_FORMAT}")] = "",
    until: Annotated[str, Query(description="ended before this time")] = "",
    replayed: Annotated[str, Query(description="whether it was replayed", json_schema_extra=_IS_REPLAYED)] = "",
) -> DeadLetterFilter:
    """Parse the filter fields of a query; raises Refused."""
    if code and code not in DEAD_LETTER_CODES:
        message = f"no dead letter has the code {code[:80]!r}"
        raise Refused("invalid_request", message, allowed=sorted(DEAD_LETTER_CODES))
    if replayed and replayed not in _BOOLEANS:
        raise Refused("invalid_request", "replayed must be true or false", allowed=list(_BOOLEANS))
    return DeadLetterFilter(model, code, read_time("since", since), read_time("until", until), _BOOLEANS.get(replayed))


def read_visible_tenant(http: HttpRequest) -> str | None:
    """Return the tenant whose dead letters the caller may read by id, or None for all tenants."""
    caller: Caller = http.scope["caller"]
    return None if caller.is_admin and caller.key_id else caller.tenant


Filters = Annotated[DeadLetterFilter, Depends(read_filters)]
VisibleTenant = Annotated[str | None, Depends(read_visible_tenant)]


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(prefix=PATH, tags=["dead letters"])
    store = gateway.store

    @routes.get("", summary="List own dead letters, newest first")
    async def list_dead_letters(
        http: HttpRequest, filters: Filters, tenant: RequestedTenant, limit: Limit = 20, cursor: Cursor = ""
    ) -> Response:
        """Return the dead letters that match all given filters. A page may be short, even empty."""
        Request(http.scope).query(*FILTER_FIELDS, "tenant", "limit", "cursor")
        page = await dead_letters.list_dead_letters(store, tenant, filters, read_cursor(cursor, "-", JOB_ID), limit)
        views = [dead_letter_view(letter) for letter in page.records]
        return json_response({"deadletters": views, "next_cursor": write_cursor(page.after, "-")})

    @routes.delete("", summary="Purge the dead letters that match a filter")
    async def purge_dead_letters(
        http: HttpRequest, filters: Filters, tenant: RequestedTenant, cursor: Cursor = "", every: All = ""
    ) -> Response:
        """Remove dead letters and their inputs, 1,000 a call. It takes at least one filter, or `all=true`."""
        list_queries.check_filter_or_all(http, every, "dead letters", FILTER_FIELDS, "tenant")
        after = read_cursor(cursor, "-", JOB_ID)
        page = await dead_letters.list_dead_letters(store, tenant, filters, after, MAX_PURGED)
        purged = await dead_letters.purge_dead_letters(store, [letter.job.id for letter in page.records])
        log_change(http, "purged %d dead letters by filter %s", purged, dict(http.query_params))
        next_cursor = write_cursor(page.after, "-")
        return json_response({"purged": purged, "more": page.after is not None, "next_cursor": next_cursor})

    @routes.post("/replay", summary="Replay the dead letters that match a filter")
    async def replay_dead_letters(
        http: HttpRequest, filters: Filters, tenant: RequestedTenant, cursor: Cursor = "", every: All = ""
    ) -> Response:
        """Submit dead letters again that were not replayed before, 1,000 a call, until the queue is full.

        It takes at least one filter, or `all=true`. Where `more` is true, call again with `next_cursor`.
        """
        list_queries.check_filter_or_all(http, every, "dead letters", FILTER_FIELDS, "tenant")
        done = await replay.replay_dead_letters(gateway, tenant, filters, read_cursor(cursor, "-", JOB_ID))
        log_change(http, "replayed %d dead letters by filter %s", done.replayed, dict(http.query_params))
        return _replay_response(done)

    @routes.get("/{job_id}", summary="Read a dead letter")
    async def read_dead_letter(tenant: VisibleTenant, job_id: str) -> Response:
        """Return the failed job, and what only dead letters have. A key with the role admin reads those of others."""
        return json_response(dead_letter_view(await dead_letters.get_dead_letter(store, tenant, job_id)))

    @routes.get("/{job_id}/input", summary="Download the exact input of a dead letter")
    async def read_dead_letter_input(tenant: VisibleTenant, job_id: str) -> Response:
        """Return the input byte for byte, as a download: an image, a text, JSON, or bytes."""
        letter = await dead_letters.get_dead_letter(store, tenant, job_id)
        body = await dead_letters.read_input(store, letter)
        content_type, ending = _media_type(letter.kind, body)
        attachment = f'attachment; filename="{job_id}.{ending}"'
        headers = ((b"content-disposition", attachment.encode()),)
        return to_fastapi_response(HttpResponse(200, body, headers, content_type.encode()))

    @routes.post("/{job_id}/replay", summary="Replay a dead letter as a new job")
    async def replay_dead_letter(http: HttpRequest, tenant: VisibleTenant, job_id: str) -> Response:
        """Submit the same input, parameters, metadata and lane again, for the version that is served now.

        The dead letter is kept, and its `replayed_as` names the new job.
        """
        letter = await dead_letters.get_dead_letter(store, tenant, job_id)
        key = Request(http.scope).header(b"idempotency-key")
        submitted = await replay.replay_dead_letter(gateway, letter, key)
        (job,) = await wait_for_outcomes(gateway, [submitted], 0)
        job = unwrap(job)
        headers: list[Header] = [(b"location", f"/v1/jobs/{job.id}".encode())]
        if submitted.accepted.replayed:
            headers.append((b"idempotent-replayed", b"true"))
        else:
            log_change(http, "replayed dead letter %s of tenant %s as job %s", job_id, job.tenant, job.id)
        return to_fastapi_response(HttpResponse(202, orjson.dumps(job_view(job)), headers))

    @routes.delete("/{job_id}", summary="Purge a dead letter")
    async def purge_dead_letter(http: HttpRequest, tenant: VisibleTenant, job_id: str) -> Response:
        """Remove the dead letter and its input. The job can be read as long as any other result."""
        letter = await dead_letters.get_dead_letter(store, tenant, job_id)
        purged = await dead_letters.purge_dead_letters(store, [letter.job.id])
        log_change(http, "purged dead letter %s of tenant %s", job_id, letter.job.tenant)
        return json_response({"purged": purged})

    return routes


def _replay_response(done: ReplayResult) -> Response:
    view = {**done._asdict(), "next_cursor": write_cursor(done.after, "-"), "stopped": None}
    del view["after"]
    headers: tuple[Header, ...] = ()
    if done.stopped is not None:
        view["stopped"] = {"code": done.stopped.code, "detail": done.stopped.message}
        headers = ((b"retry-after", b"%d" % done.stopped.details.get("retry_after_s", 1)),)
    return json_response(view, headers=headers)


def _media_type(kind: str, body: bytes) -> tuple[str, str]:
    """Return the media type of an input, and the ending of its file's name."""
    if kind == "json":
        return "application/json", "json"
    if kind == "text":
        return "text/plain; charset=utf-8", "txt"
    if kind == "audio" and (name := audio_formats.detect_format(body)):
        return audio_formats.MEDIA_TYPES[name], name.lower()
    name = image_formats.detect_format(body) if kind == "image" else None
    return (f"image/{name.lower()}", name.lower()) if name else ("application/octet-stream", "bin")


def dead_letter_view(letter: DeadLetter) -> dict[str, Any]:
    """Return the JSON view of a dead letter: its job, and the fields that only dead letters have."""
    path, job_path = f"{PATH}/{letter.job.id}", f"/v1/jobs/{letter.job.id}"
    same = ("kind", "input_bytes", "kills", "losses", "retries", "replayed_as")
    return {
        **job_view(letter.job),
        "tenant": letter.job.tenant,
        "parameters": orjson.Fragment(letter.parameters),
        **{name: getattr(letter, name) for name in same},
        "urls": {"self": path, "input": f"{path}/input", "replay": f"{path}/replay", "job": job_path},
    }
