"""Routes of webhooks: list and resend deliveries, list receivers, the signing secret, attach to a job."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_response import json_response
from api.asgi.request import Request
from api.gateway.gateway import Gateway
from api.routes.list_queries import All, Cursor, check_filter_or_all, read_cursor, read_time, write_cursor
from jobs.contract.errors import Refused
from jobs.contract.job_view import format_timestamp
from jobs.contract.json_reader import read_json
from jobs.webhooks import delivery_log, signing_secrets
from jobs.webhooks.delivery_log import DELIVERY_ID, ENDPOINT_ID, STATES, Delivery, DeliveryFilter, Endpoint

PATH: Final = "/v1/webhooks"
FILTER_FIELDS: Final = ("job", "endpoint", "state", "since", "until")
MAX_REPLAYED: Final = 1000  # deliveries resent per call
MAX_WEBHOOK_BYTES: Final = 8 << 10


def read_filters(
    job: Annotated[str, Query(description="id of the job")] = "",
    endpoint: Annotated[str, Query(description="id of the receiver")] = "",
    state: Annotated[str, Query(description="`waiting`, `delivered` or `failed`")] = "",
    since: Annotated[str, Query(description="created at this time or later, in RFC 3339")] = "",
    until: Annotated[str, Query(description="created before this time")] = "",
) -> DeliveryFilter:
    """Parse the filter fields of a query; raises Refused."""
    if state and state not in STATES:
        raise Refused("invalid_request", "unknown state: see allowed", allowed=list(STATES))
    if endpoint and not ENDPOINT_ID.fullmatch(endpoint):
        raise Refused("invalid_request", "endpoint must be an `id` from GET /v1/webhooks/endpoints")
    return DeliveryFilter(job, endpoint, state, read_time("since", since), read_time("until", until))


def tenant_of(request: HttpRequest) -> str:
    """Return the tenant of a request."""
    return Request(request.scope).tenant


Filters = Annotated[DeliveryFilter, Depends(read_filters)]
Tenant = Annotated[str, Depends(tenant_of)]


def router(gateway: Gateway) -> APIRouter:
    routes, store = APIRouter(tags=["webhooks"]), gateway.store
    _add_secret(routes, gateway)  # before the route that matches any path segment as a delivery id

    @routes.get(PATH, summary="List own deliveries, newest first")
    async def list_deliveries(
        request: HttpRequest,
        tenant: Tenant,
        filters: Filters,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: Cursor = "",
    ) -> Response:
        Request(request.scope).query(*FILTER_FIELDS, "limit", "cursor")
        page = await delivery_log.list_deliveries(store, tenant, filters, read_cursor(cursor, ".", DELIVERY_ID), limit)
        found = [delivery_view(delivery) for delivery in page.records]
        return json_response({"deliveries": found, "next_cursor": write_cursor(page.after, ".")})

    @routes.post(f"{PATH}/replay", summary="Resend the deliveries that match a filter")
    async def replay_deliveries(
        request: HttpRequest, tenant: Tenant, filters: Filters, cursor: Cursor = "", every: All = ""
    ) -> Response:
        check_filter_or_all(request, every, "deliveries", FILTER_FIELDS)
        page = await delivery_log.list_deliveries(
            store, tenant, filters, read_cursor(cursor, ".", DELIVERY_ID), MAX_REPLAYED
        )
        for delivery in page.records:
            await delivery_log.resend(store, tenant, delivery.id)
        more = page.after is not None
        return json_response(
            {"replayed": len(page.records), "more": more, "next_cursor": write_cursor(page.after, ".")}
        )

    @routes.get(f"{PATH}/endpoints", summary="List own receivers and their state")
    async def list_endpoints(tenant: Tenant) -> Response:
        found = await delivery_log.list_endpoints(store, tenant)
        return json_response({"endpoints": [endpoint_view(endpoint) for endpoint in found]})

    @routes.get(f"{PATH}/{{delivery_id}}", summary="Read a delivery and its attempts")
    async def read_delivery(tenant: Tenant, delivery_id: str) -> Response:
        return json_response(delivery_view(await delivery_log.get_delivery(store, tenant, delivery_id)))

    @routes.post(f"{PATH}/{{delivery_id}}/replay", summary="Resend a delivery at once, with the same webhook-id")
    async def replay_delivery(tenant: Tenant, delivery_id: str) -> Response:
        await delivery_log.resend(store, tenant, delivery_id)
        return json_response(delivery_view(await delivery_log.get_delivery(store, tenant, delivery_id)), status=202)

    @routes.put("/v1/jobs/{job_id}/webhook", summary="Attach a webhook to a job, whether or not it has ended")
    async def attach(request: HttpRequest, tenant: Tenant, job_id: str) -> Response:
        parsed_request = Request(request.scope)
        with gateway.bodies.hold(tenant, parsed_request.evict) as share:
            body = await parsed_request.body(request.receive, share, MAX_WEBHOOK_BYTES)
        state, delivery = await gateway.attach(tenant, job_id, read_json(body, "the body"))
        if delivery:
            return json_response(delivery_view(await delivery_log.get_delivery(store, tenant, delivery)), status=202)
        return json_response({"job": job_id, "state": "attached" if state == "open" else state})

    return routes


def _add_secret(routes: APIRouter, gateway: Gateway) -> None:
    connection = gateway.store.connection

    @routes.get(f"{PATH}/secret", summary="Read the secret that signs own webhooks")
    async def read_secret(tenant: Tenant) -> Response:
        return json_response(_secret_view(await signing_secrets.read_secrets(connection, tenant)))

    @routes.post(f"{PATH}/secret/rotate", summary="Rotate the secret; the old one also signs for a while")
    async def rotate_secret(tenant: Tenant) -> Response:
        overlap_s = gateway.settings.webhook_secret_overlap_s
        return json_response(_secret_view(await signing_secrets.rotate_secret(connection, tenant, overlap_s)))


def delivery_view(delivery: Delivery) -> dict[str, Any]:
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


def _time(ms: int | None) -> str | None:
    return format_timestamp(None if ms is None else ms * 1000)
