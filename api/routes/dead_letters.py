"""The routes of dead letters: list, look, fetch the input, send again, forget; one by one, or all that fit a filter."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Query, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_response import to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import Header, HttpResponse
from api.auth.authentication import Caller
from api.gateway.gateway import Gateway
from api.submission import replay
from api.submission.submit import wait_for_outcome
from jobs.contract import image_formats
from jobs.contract.errors import DEAD_LETTER_CODES, Refused
from jobs.contract.job_view import job_view
from jobs.store import dead_letters
from jobs.store.dead_letters import DeadLetter, DeadLetterFilter, Position

PATH: Final = "/v1/deadletters"
FILTER_FIELDS: Final = ("model", "code", "since", "until", "replayed")
ALL_TENANTS: Final = "*"  # in place of a tenant
MAX_PURGED: Final = 1000  # letters that one call forgets
_CURSOR: Final = re.compile(r"(\d{1,15})-(\d\d[0-9a-f]{32})")
_TIME: Final = "RFC 3339 with its time zone, as in 2026-01-31T09:30:00Z"
_BOOLEANS: Final = {"true": True, "false": False}

Cursor = Annotated[str, Query(description="`next_cursor` of an earlier answer")]
All = Annotated[str, Query(alias="all", description="`true` in place of a filter: every letter")]


def read_filters(
    model: str = "",
    code: Annotated[str, Query(description="why it failed")] = "",
    since: Annotated[str, Query(description=f"ended then or later: {_TIME}")] = "",
    until: Annotated[str, Query(description="ended before then")] = "",
    replayed: Annotated[str, Query(description="`true`: those sent again; `false`: those that were not")] = "",
) -> DeadLetterFilter:
    """Read the filters of a query; raises Refused."""
    if code and code not in DEAD_LETTER_CODES:
        raise Refused(
            "invalid_request", f"no dead letter has the code {code[:80]!r}", allowed=sorted(DEAD_LETTER_CODES)
        )
    if replayed and replayed not in _BOOLEANS:
        raise Refused("invalid_request", "replayed must be one of the allowed words", allowed=list(_BOOLEANS))
    return DeadLetterFilter(model, code, read_time("since", since), read_time("until", until), _BOOLEANS.get(replayed))


def read_requested_tenant(
    request: HttpRequest,
    tenant: Annotated[str, Query(description="another tenant, or `*` for all: for keys with the role admin")] = "",
) -> str | None:
    """Give the tenant whose letters are meant, None for all; raises Refused."""
    caller: Caller = request.scope["caller"]
    if tenant in ("", caller.tenant):
        return caller.tenant
    if not caller.is_admin:
        raise Refused("forbidden", "letters of other tenants need a key with the role admin, and this one has not")
    return None if tenant == ALL_TENANTS else tenant


def read_visible_tenant(request: HttpRequest) -> str | None:
    """Give the tenant whose letters are found by id, None for all."""
    caller: Caller = request.scope["caller"]
    return None if caller.is_admin and caller.key_id else caller.tenant


Filters = Annotated[DeadLetterFilter, Depends(read_filters)]
RequestedTenant = Annotated[str | None, Depends(read_requested_tenant)]
VisibleTenant = Annotated[str | None, Depends(read_visible_tenant)]


def router(gateway: Gateway) -> APIRouter:
    """All routes of dead letters."""
    routes = APIRouter(prefix=PATH, tags=["dead letters"])
    store = gateway.store

    @routes.get("", summary="List own dead letters, newest first")
    async def list_letters(
        request: HttpRequest,
        filters: Filters,
        tenant: RequestedTenant,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: Cursor = "",
    ) -> Response:
        Request(request.scope).query(*FILTER_FIELDS, "tenant", "limit", "cursor")
        page = await dead_letters.list_dead_letters(store, tenant, filters, _read_cursor(cursor), limit)
        letters = [dead_letter_view(letter) for _, letter in page.letters]
        return _json({"deadletters": letters, "next_cursor": _write_cursor(page.after)})

    @routes.delete("", summary="Forget the dead letters that fit a filter")
    async def purge_letters(
        request: HttpRequest, filters: Filters, tenant: RequestedTenant, cursor: Cursor = "", every: All = ""
    ) -> Response:
        _check_filter_or_all(request, every)
        page = await dead_letters.list_dead_letters(store, tenant, filters, _read_cursor(cursor), MAX_PURGED)
        purged = await dead_letters.purge_dead_letters(store, [letter.job.id for _, letter in page.letters])
        return _json({"purged": purged, "more": page.after is not None, "next_cursor": _write_cursor(page.after)})

    @routes.post("/replay", summary="Send the dead letters again that fit a filter")
    async def replay_letters(
        request: HttpRequest, filters: Filters, tenant: RequestedTenant, cursor: Cursor = "", every: All = ""
    ) -> Response:
        _check_filter_or_all(request, every)
        done = await replay.replay_letters(gateway, tenant, filters, _read_cursor(cursor))
        view = {**done._asdict(), "next_cursor": _write_cursor(done.after), "stopped": None}
        del view["after"]
        headers: tuple[Header, ...] = ()
        if done.stopped is not None:
            view["stopped"] = {"code": done.stopped.code, "detail": done.stopped.message}
            headers = ((b"retry-after", b"%d" % done.stopped.details.get("retry_after_s", 1)),)
        return _json(view, headers)

    @routes.get("/{job_id}", summary="Look at a dead letter")
    async def read_letter(tenant: VisibleTenant, job_id: str) -> Response:
        return _json(dead_letter_view(await dead_letters.get_dead_letter(store, tenant, job_id)))

    @routes.get("/{job_id}/input", summary="Fetch a dead letter's exact input")
    async def read_input(tenant: VisibleTenant, job_id: str) -> Response:
        letter = await dead_letters.get_dead_letter(store, tenant, job_id)
        body = await dead_letters.read_input(store, letter)
        name = image_formats.detect_format(body) if letter.kind == "image" else None
        content_type = f"image/{name.lower()}" if name else "application/octet-stream"
        attachment = f'attachment; filename="{job_id}.{name.lower() if name else "bin"}"'
        headers = ((b"content-disposition", attachment.encode()),)
        return to_fastapi_response(HttpResponse(200, body, headers, content_type.encode()))

    @routes.post("/{job_id}/replay", summary="Send a dead letter again, as a new job")
    async def replay_letter(request: HttpRequest, tenant: VisibleTenant, job_id: str) -> Response:
        letter = await dead_letters.get_dead_letter(store, tenant, job_id)
        submitted = await replay.replay_letter(gateway, letter, Request(request.scope).header(b"idempotency-key"))
        job = await wait_for_outcome(gateway, submitted, 0)
        headers: list[Header] = [(b"location", f"/v1/jobs/{job.id}".encode())]
        if submitted.accepted.replayed:
            headers.append((b"idempotent-replayed", b"true"))
        return to_fastapi_response(HttpResponse(202, orjson.dumps(job_view(job)), headers))

    @routes.delete("/{job_id}", summary="Forget a dead letter")
    async def purge_letter(tenant: VisibleTenant, job_id: str) -> Response:
        letter = await dead_letters.get_dead_letter(store, tenant, job_id)
        return _json({"purged": await dead_letters.purge_dead_letters(store, [letter.job.id])})

    return routes


def dead_letter_view(letter: DeadLetter) -> dict[str, Any]:
    """Show a letter, ready for orjson: its job, and what only a letter has."""
    path = f"{PATH}/{letter.job.id}"
    return {
        **job_view(letter.job),
        "tenant": letter.job.tenant,
        "kind": letter.kind,
        "parameters": orjson.Fragment(letter.parameters),
        "input_bytes": letter.input_bytes,
        "kills": letter.kills,
        "losses": letter.losses,
        "retries": letter.retries,
        "replayed_as": letter.replayed_as,
        "urls": {
            "self": path,
            "input": f"{path}/input",
            "replay": f"{path}/replay",
            "job": f"/v1/jobs/{letter.job.id}",
        },
    }


def _check_filter_or_all(request: HttpRequest, every: str) -> None:
    """Refuse what would meet all letters without saying so."""
    query = Request(request.scope).query(*FILTER_FIELDS, "tenant", "cursor", "all")
    if every not in ("", "true") or bool(every) == any(query.get(name) for name in FILTER_FIELDS):
        message = "say which letters: by at least one filter, or all of them by all=true, not both"
        raise Refused("invalid_request", message, allowed=[*FILTER_FIELDS, "all=true"])


def read_time(name: str, text: str) -> int | None:
    """Read a time in a query, in ms since the epoch; None where none is given. Raises Refused."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise Refused("invalid_request", f"{name} must be a time in {_TIME}, not {text[:80]!r}")
    return int(time.timestamp() * 1000)


def _write_cursor(place: Position | None) -> str | None:
    return f"{place.ended_ms}-{place.id}" if place else None


def _read_cursor(cursor: str) -> Position | None:
    if not cursor:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise Refused("invalid_request", "cursor must be the `next_cursor` of an earlier answer")
    return Position(int(match[1]), match[2])


def _json(view: Mapping[str, Any], headers: tuple[Header, ...] = ()) -> Response:
    return to_fastapi_response(HttpResponse(200, orjson.dumps(view), headers))
