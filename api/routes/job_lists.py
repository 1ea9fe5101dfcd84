"""Routes over many jobs: list them by filter, cancel those that match a filter."""

import time
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import json_response, receive_body
from api.asgi.request import Request
from api.auth.audit import log_change
from api.gateway.gateway import Gateway
from api.gateway.list_scheduler import Turn
from api.routes.job_filters import (
    Code,
    LaneName,
    Model,
    Since,
    Status,
    TenantName,
    Until,
    Version,
    check_open_states,
    read_filter,
    read_job_cursor,
    read_query_fields,
    read_scope,
)
from api.routes.list_queries import Cursor, Limit, write_cursor
from jobs.contract.errors import Refused
from jobs.contract.job_view import format_timestamp, listed_view
from jobs.contract.json_reader import read_object
from jobs.store.job_search import MAX_SCANNED, JobFilter, JobPage, search_jobs
from jobs.store.record_pages import Position

FAR_FUTURE_US: Final = 1 << 60
MAX_CANCELED: Final = 1000  # jobs per call
MAX_CANCEL_S: Final = 2.0
CANCEL_PAGE: Final = 100  # jobs that are found before they are canceled
MAX_BODY_BYTES: Final = 64 << 10
CANCEL_FIELDS: Final = (
    *("status", "model", "version", "lane", "tenant", "since", "until", "metadata"),
    *("all", "dry_run", "cursor"),
)


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(tags=["jobs"])

    @routes.get("/v1/jobs", summary="List jobs by filter, newest first, without their outputs")
    async def list_jobs(  # noqa: PLR0917 (fields of the query)
        http: HttpRequest,
        status: Status = "",
        model: Model = "",
        version: Version = "",
        lane: LaneName = "",
        tenant: TenantName = "",
        code: Code = "",
        since: Since = "",
        until: Until = "",
        limit: Limit = 20,
        cursor: Cursor = "",
    ) -> Response:
        """Return the newest jobs that match all given filters; `metadata.KEY=VALUE` filters by metadata.

        A page may be short, even empty: the last one has no `next_cursor`. `scanned` says how many jobs were looked at.
        """
        del status, model, version, lane, tenant, code, since, until  # `read_query_fields` reads them
        fields, metadata = read_query_fields(http, "limit", "cursor")
        query, after = read_filter(http, fields, metadata), read_job_cursor(cursor)

        async def read(turn: Turn) -> Response:
            if not fields and not metadata:
                before_us = after.time if after else FAR_FUTURE_US
                jobs, next_us = await gateway.store.newest(query.tenant or "", before_us, limit)
                views = [listed_view(job) for job in jobs]
                return json_response({"jobs": views, "next_cursor": str(next_us) if next_us else None})
            scope = await read_scope(gateway, query)
            page = await search_jobs(gateway.store, query, scope, after, limit, is_over=turn.is_over)
            views = [listed_view(job) for job in page.jobs]
            if "tenant" in fields:
                views = [{**view, "tenant": job.tenant} for view, job in zip(views, page.jobs, strict=True)]
            return json_response({"jobs": views, **_progress_view(page)})

        return await gateway.lists.run(read)

    @routes.post("/v1/jobs/cancel", summary="Cancel the queued and running jobs that match a filter")
    async def cancel_jobs(http: HttpRequest) -> Response:
        """Cancel jobs, 1,000 a call. It takes at least one filter, or `"all": true`.

        Where `more` is true, call again with `next_cursor`. With `"dry_run": true` they are only counted. Lines of
        batches are not canceled: cancel their batch.
        """
        Request(http.scope).query()
        fields = read_object(await receive_body(http, gateway.bodies, MAX_BODY_BYTES), "the body")
        query, after, is_dry_run = _read_cancellation(http, fields)
        done = await _cancel_matching(gateway, query, after, is_dry_run=is_dry_run)
        if not is_dry_run:
            filters = {name: value for name, value in fields.items() if name not in ("cursor", "dry_run")}
            log_change(http, "canceled %d jobs by filter %s", done["canceled"], filters)
        return json_response(done)

    return routes


def _progress_view(page: JobPage) -> dict[str, Any]:
    """Return how far a page has looked, and where the next one begins."""
    return {
        "next_cursor": write_cursor(page.after, "-"),
        "scanned": page.scanned,
        "scanned_to": format_timestamp(page.scanned_to_us),
    }


def _read_cancellation(http: HttpRequest, fields: Mapping[str, Any]) -> tuple[JobFilter, Position | None, bool]:
    """Return the filter of a cancellation, its cursor, and whether it only counts; raises Refused."""
    if unknown := [name for name in fields if name not in CANCEL_FIELDS]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(CANCEL_FIELDS))
    texts = {name: value for name, value in fields.items() if name not in ("metadata", "all", "dry_run")}
    metadata, every, is_dry_run = (
        fields.get(name, default) for name, default in (("metadata", {}), ("all", False), ("dry_run", False))
    )
    if wrong := [name for name, value in texts.items() if not isinstance(value, str)]:
        raise Refused("invalid_request", f"field {wrong[0]!r} must be a text")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused("invalid_request", "field 'metadata' must be an object of texts")
    if type(every) is not bool or type(is_dry_run) is not bool:
        raise Refused("invalid_request", "the fields 'all' and 'dry_run' must be true or false")
    cursor = texts.pop("cursor", "")
    if every == bool(metadata or any(value for name, value in texts.items() if name != "tenant")):
        message = "select jobs by at least one filter besides the tenant, or all of them by all=true, but not both"
        raise Refused("invalid_request", message, allowed=list(CANCEL_FIELDS))
    return check_open_states(read_filter(http, texts, metadata)), read_job_cursor(cursor), is_dry_run


async def _cancel_matching(
    gateway: Gateway, query: JobFilter, after: Position | None, *, is_dry_run: bool
) -> dict[str, Any]:
    """Cancel matching jobs until a bound of one call is reached; return the view of what was done."""
    store, scope = gateway.store, await read_scope(gateway, query)
    state: Any = next(iter(query.states)).value if len(query.states) == 1 else None
    ends_at, matched, canceled, scanned = time.monotonic() + MAX_CANCEL_S, 0, 0, 0
    while True:
        page = await search_jobs(
            store,
            query,
            scope,
            after,
            min(CANCEL_PAGE, MAX_CANCELED - matched),
            is_over=lambda: time.monotonic() > ends_at,
        )
        ids = [job.id for job in page.jobs]
        if ids and not is_dry_run:
            canceled += (await store.cancel_many(ids, query.tenant, state)).count("canceled")
        matched, scanned, after = matched + len(ids), scanned + page.scanned, page.after
        if after is None or matched >= MAX_CANCELED or scanned >= MAX_SCANNED or time.monotonic() > ends_at:
            progress = _progress_view(page._replace(scanned=scanned))
            return {
                "canceled": canceled,
                "matched": matched,
                "dry_run": is_dry_run,
                "more": after is not None,
            } | progress
