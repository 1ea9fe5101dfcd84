"""The routes of webhooks: deliveries and their attempts, send again, receivers, the secret, attach to a job."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Query, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_response import to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import HttpResponse
from api.gateway.gateway import Gateway
from api.routes.dead_letters import read_time
from jobs.contract.errors import Refused
from jobs.contract.job_view import format_timestamp
from jobs.contract.json_reader import read_json
from jobs.webhooks import delivery_log, signing_secrets
from jobs.webhooks.delivery_log import DELIVERY_ID, ENDPOINT_ID, STATES, Delivery, DeliveryFilter, Endpoint, Position

PATH: Final = "/v1/webhooks"
FILTER_FIELDS: Final = ("job", "endpoint", "state", "since", "until")
MAX_REPLAYED: Final = 1000  # deliveries that one call sends again
MAX_WEBHOOK_BYTES: Final = 8 << 10

Cursor = Annotated[str, Query(description="`next_cursor` of an earlier answer")]
All = Annotated[str, Query(alias="all", description="`true` in place of a filter: every delivery")]


def read_filters(
    job: Annotated[str, Query(description="of this job")] = "",
    endpoint: Annotated[str, Query(description="to this receiver, by its id")] = "",
    state: Annotated[str, Query(description="`waiting`, `delivered` or `failed`")] = "",
    since: Annotated[str, Query(description="made then or later, in RFC 3339")] = "",
    until: Annotated[str, Query(description="made before then")] = "",
) -> DeliveryFilter:
    """Read the filters of a query; raises Refused."""
    if state and state not in STATES:
        raise Refused("invalid_request", "state must be one of the allowed words", allowed=list(STATES))
    if endpoint and not ENDPOINT_ID.fullmatch(endpoint):
        raise Refused("invalid_request", "endpoint must be the `id` of one in GET /v1/webhooks/endpoints")
    return DeliveryFilter(job, endpoint, state, read_time("since", since), read_time("until", until))


def tenant_of(request: HttpRequest) -> str:
    """Give whose request it is."""
    return Request(request.scope).tenant


Filters = Annotated[DeliveryFilter, Depends(read_filters)]
Tenant = Annotated[str, Depends(tenant_of)]


def router(gateway: Gateway) -> APIRouter:
    """All routes of webhooks."""
    routes, store = APIRouter(tags=["webhooks"]), gateway.store
    _add_secret(routes, gateway)  # before what takes any word for a delivery

    @routes.get(PATH, summary="List own deliveries, newest first")
    async def list_deliveries(
        request: HttpRequest,
        tenant: Tenant,
        filters: Filters,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: Cursor = "",
    ) -> Response:
        Request(request.scope).query(*FILTER_FIELDS, "limit", "cursor")
        page = await delivery_log.list_deliveries(store, tenant, filters, _read_cursor(cursor), limit)
        found = [delivery_view(delivery) for delivery in page.deliveries]
        return _json({"deliveries": found, "next_cursor": _write_cursor(page.after)})

    @routes.post(f"{PATH}/replay", summary="Send the deliveries again that fit a filter")
    async def replay_deliveries(
        request: HttpRequest, tenant: Tenant, filters: Filters, cursor: Cursor = "", every: All = ""
    ) -> Response:
        _check_filter_or_all(request, every)
        page = await delivery_log.list_deliveries(store, tenant, filters, _read_cursor(cursor), MAX_REPLAYED)
        for delivery in page.deliveries:
            await delivery_log.resend(store, tenant, delivery.id)
        more = page.after is not None
        return _json({"replayed": len(page.deliveries), "more": more, "next_cursor": _write_cursor(page.after)})

    @routes.get(f"{PATH}/endpoints", summary="List own receivers, and how each of them is")
    async def list_endpoints(tenant: Tenant) -> Response:
        found = await delivery_log.list_endpoints(store, tenant)
        return _json({"endpoints": [endpoint_view(endpoint) for endpoint in found]})

    @routes.get(f"{PATH}/{{delivery_id}}", summary="Look at a delivery and its attempts")
    async def read_delivery(tenant: Tenant, delivery_id: str) -> Response:
        return _json(delivery_view(await delivery_log.get_delivery(store, tenant, delivery_id)))

    @routes.post(f"{PATH}/{{delivery_id}}/replay", summary="Send a delivery again, at once, under the same webhook-id")
    async def replay_delivery(tenant: Tenant, delivery_id: str) -> Response:
        await delivery_log.resend(store, tenant, delivery_id)
        return _json(delivery_view(await delivery_log.get_delivery(store, tenant, delivery_id)), status=202)

    @routes.put("/v1/jobs/{job_id}/webhook", summary="Attach a webhook to a job, whether or not it has ended")
    async def attach(request: HttpRequest, tenant: Tenant, job_id: str) -> Response:
        parsed_request = Request(request.scope)
        with gateway.bodies.hold(tenant, parsed_request.evict) as share:
            body = await parsed_request.body(request.receive, share, MAX_WEBHOOK_BYTES)
        how, delivery = await gateway.attach(tenant, job_id, read_json(body, "the body"))
        if delivery:
            return _json(delivery_view(await delivery_log.get_delivery(store, tenant, delivery)), status=202)
        return _json({"job": job_id, "state": "attached" if how == "open" else how})

    return routes


def _add_secret(routes: APIRouter, gateway: Gateway) -> None:
    connection = gateway.store.connection

    @routes.get(f"{PATH}/secret", summary="Read what own webhooks are signed with")
    async def read_secret(tenant: Tenant) -> Response:
        return _json(_secret_view(await signing_secrets.read_secrets(connection, tenant)))

    @routes.post(f"{PATH}/secret/rotate", summary="Sign with a new secret; for a while with the old one too")
    async def rotate_secret(tenant: Tenant) -> Response:
        overlap_s = gateway.settings.webhook_secret_overlap_s
        return _json(_secret_view(await signing_secrets.rotate_secret(connection, tenant, overlap_s)))


def delivery_view(delivery: Delivery) -> dict[str, Any]:
    """Show a delivery, ready for orjson."""
    path = f"{PATH}/{delivery.id}"
    job_url = f"/v1/{'batches' if delivery.job.startswith('batch_') else 'jobs'}/{delivery.job}"
    return {
        "id": delivery.id,
        "job": delivery.job,
        "type": delivery.event,
        "url": delivery.url,
        "endpoint": delivery.endpoint,
        "state": delivery.state,
        "created_at": _time(delivery.created_ms),
        "ended_at": _time(delivery.ended_ms),
        "next_attempt_at": _time(delivery.due_ms),
        "tries": delivery.tries,
        "attempts": [_attempt_view(attempt) for attempt in delivery.attempts],
        "urls": {"self": path, "replay": f"{path}/replay", "job": job_url},
    }


def _attempt_view(attempt: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "at": _time(attempt.get("at_ms")),
        "ms": attempt.get("ms"),
        "status": attempt.get("status"),
        "error": attempt.get("error"),
        "location": attempt.get("location"),
    }


def endpoint_view(endpoint: Endpoint) -> dict[str, Any]:
    """Show a receiver, ready for orjson."""
    return {
        "id": endpoint.id,
        "origin": endpoint.origin,
        "waiting": endpoint.waiting,
        "under_way": endpoint.under_way,
        "slow": endpoint.is_slow,
        "failures": endpoint.failures,
        "failing_since": _time(endpoint.failing_since_ms),
        "paused_until": _time(endpoint.paused_until_ms),
        "last_success_at": _time(endpoint.succeeded_ms),
        "urls": {"deliveries": f"{PATH}?endpoint={endpoint.id}"},
    }


def _secret_view(secrets: list[str]) -> dict[str, Any]:
    return {"key": secrets[0], "previous": secrets[1] if len(secrets) > 1 else None}


def _check_filter_or_all(request: HttpRequest, every: str) -> None:
    """Refuse what would meet all deliveries without saying so."""
    query = Request(request.scope).query(*FILTER_FIELDS, "cursor", "all")
    if every not in ("", "true") or bool(every) == any(query.get(name) for name in FILTER_FIELDS):
        message = "say which deliveries: by at least one filter, or all of them by all=true, not both"
        raise Refused("invalid_request", message, allowed=[*FILTER_FIELDS, "all=true"])


def _time(ms: int | None) -> str | None:
    return format_timestamp(None if ms is None else ms * 1000)


def _write_cursor(place: Position | None) -> str | None:
    return f"{place.created_ms}.{place.id}" if place else None


def _read_cursor(cursor: str) -> Position | None:
    if not cursor:
        return None
    ms, _, delivery = cursor.partition(".")
    if not (ms.isascii() and ms.isdigit() and len(ms) < 16 and DELIVERY_ID.fullmatch(delivery)):
        raise Refused("invalid_request", "cursor must be the `next_cursor` of an earlier answer")
    return Position(int(ms), delivery)


def _json(view: Mapping[str, Any], status: int = 200) -> Response:
    return to_fastapi_response(HttpResponse(status, orjson.dumps(view), ()))
