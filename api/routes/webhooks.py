"""Routes of webhooks: list and resend deliveries, list receivers, the signing secret, attach to a job."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import Tenant, json_response, receive_body
from api.asgi.request import Request
from api.auth.audit import log_change_of_other
from api.gateway.gateway import Gateway
from api.routes.list_queries import (
    All,
    Cursor,
    Limit,
    NamedTenant,
    check_filter_or_all,
    read_cursor,
    read_time,
    write_cursor,
)
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
    state: Annotated[str, Query(json_schema_extra={"enum": list(STATES)}, description="state of the delivery")] = "",
    since: Annotated[str, Query(description="created at this time or later, in RFC 3339")] = "",
    until: Annotated[str, Query(description="created before this time")] = "",
) -> DeliveryFilter:
    """Parse the filter fields of a query; raises Refused."""
    if state and state not in STATES:
        raise Refused("invalid_request", "unknown state: see allowed", allowed=list(STATES))
    if endpoint and not ENDPOINT_ID.fullmatch(endpoint):
        raise Refused("invalid_request", "endpoint must be an `id` from GET /v1/webhooks/endpoints")
    return DeliveryFilter(job, endpoint, state, read_time("since", since), read_time("until", until))


Filters = Annotated[DeliveryFilter, Depends(read_filters)]


def router(gateway: Gateway) -> APIRouter:
    routes, store = APIRouter(tags=["webhooks"]), gateway.store
    _add_secret(routes, gateway)  # before the route that matches any path segment as a delivery id

    @routes.get(PATH, summary="List own deliveries, newest first")
    async def list_deliveries(
        http: HttpRequest, tenant: NamedTenant, filters: Filters, limit: Limit = 20, cursor: Cursor = ""
    ) -> Response:
        """Return the deliveries that match all given filters, with their newest attempts."""
        Request(http.scope).query(*FILTER_FIELDS, "tenant", "limit", "cursor")
        page = await delivery_log.list_deliveries(store, tenant, filters, read_cursor(cursor, ".", DELIVERY_ID), limit)
        found = [delivery_view(delivery) for delivery in page.records]
        return json_response({"deliveries": found, "next_cursor": write_cursor(page.after, ".")})

    @routes.post(f"{PATH}/replay", summary="Resend the deliveries that match a filter")
    async def replay_deliveries(
        http: HttpRequest, tenant: Tenant, filters: Filters, cursor: Cursor = "", every: All = ""
    ) -> Response:
        """Make deliveries due again at once, 1,000 a call. It takes at least one filter, or `all=true`."""
        check_filter_or_all(http, every, "deliveries", FILTER_FIELDS)
        after = read_cursor(cursor, ".", DELIVERY_ID)
        page = await delivery_log.list_deliveries(store, tenant, filters, after, MAX_REPLAYED)
        for delivery in page.records:
            await delivery_log.resend(store, tenant, delivery.id)
        done = {"replayed": len(page.records), "more": page.after is not None}
        return json_response({**done, "next_cursor": write_cursor(page.after, ".")})

    @routes.get(f"{PATH}/endpoints", summary="List own receivers and their state")
    async def list_endpoints(tenant: NamedTenant) -> Response:
        """Return scheme, host and port of each receiver, how many deliveries wait for it, and whether it fails."""
        found = await delivery_log.list_endpoints(store, tenant)
        return json_response({"endpoints": [endpoint_view(endpoint) for endpoint in found]})

    @routes.get(f"{PATH}/{{delivery_id}}", summary="Read a delivery and its attempts")
    async def read_delivery(tenant: NamedTenant, delivery_id: str) -> Response:
        """Return the delivery with its newest attempts, oldest first."""
        return json_response(delivery_view(await delivery_log.get_delivery(store, tenant, delivery_id)))

    @routes.post(f"{PATH}/{{delivery_id}}/replay", summary="Resend a delivery at once, with the same webhook-id")
    async def replay_delivery(http: HttpRequest, tenant: NamedTenant, delivery_id: str) -> Response:
        """Make the delivery due again, whatever became of it. A receiver may get it twice."""
        await delivery_log.resend(store, tenant, delivery_id)
        log_change_of_other(http, tenant, "sent delivery %s again", delivery_id)
        return json_response(delivery_view(await delivery_log.get_delivery(store, tenant, delivery_id)), status=202)

    @routes.put("/v1/jobs/{job_id}/webhook", summary="Attach a webhook to a job, whether or not it has ended")
    async def attach_webhook(http: HttpRequest, tenant: Tenant, job_id: str) -> Response:
        """Notify a URL of the job's end. It replaces the webhook that an open job has.

        Of a job that has ended, the end is notified at once. A job has 9 webhooks at most.
        """
        body = await receive_body(http, gateway.bodies, MAX_WEBHOOK_BYTES)
        state, delivery = await gateway.attach(tenant, job_id, read_json(body, "the body"))
        if delivery:
            return json_response(delivery_view(await delivery_log.get_delivery(store, tenant, delivery)), status=202)
        return json_response({"job": job_id, "state": "attached" if state == "open" else state})

    return routes


def _add_secret(routes: APIRouter, gateway: Gateway) -> None:
    connection = gateway.store.connection

    @routes.get(f"{PATH}/secret", summary="Read the secret that signs own webhooks")
    async def read_webhook_secret(tenant: Tenant) -> Response:
        """Return the secret with which receivers verify the `webhook-signature`. The first call makes it."""
        return json_response(_secret_view(await signing_secrets.read_secrets(connection, tenant)))

    @routes.post(f"{PATH}/secret/rotate", summary="Rotate the secret; the old one also signs for a while")
    async def rotate_webhook_secret(tenant: Tenant) -> Response:
        """Make a new secret. Until the old one expires, webhooks have two signatures."""
        overlap_s = gateway.settings.webhook_secret_overlap_s
        return json_response(_secret_view(await signing_secrets.rotate_secret(connection, tenant, overlap_s)))


def delivery_view(delivery: Delivery) -> dict[str, Any]:
    path = f"{PATH}/{delivery.id}"
    job_url = f"/v1/{'batches' if delivery.job.startswith('batch_') else 'jobs'}/{delivery.job}"
    return {
        **{name: getattr(delivery, name) for name in ("id", "job", "url", "endpoint", "state", "tries")},
        "type": delivery.event,
        "created_at": _time(delivery.created_ms),
        "ended_at": _time(delivery.ended_ms),
        "next_attempt_at": _time(delivery.due_ms),
        "attempts": [_attempt_view(attempt) for attempt in delivery.attempts],
        "urls": {"self": path, "replay": f"{path}/replay", "job": job_url},
    }


def _attempt_view(attempt: Mapping[str, Any]) -> dict[str, Any]:
    same = {name: attempt.get(name) for name in ("ms", "status", "error", "location")}
    return {"at": _time(attempt.get("at_ms")), **same}


def endpoint_view(endpoint: Endpoint) -> dict[str, Any]:
    return {
        **{name: getattr(endpoint, name) for name in ("id", "origin", "waiting", "under_way", "failures")},
        "slow": endpoint.is_slow,
        "failing_since": _time(endpoint.failing_since_ms),
        "paused_until": _time(endpoint.paused_until_ms),
        "last_success_at": _time(endpoint.succeeded_ms),
        "urls": {"deliveries": f"{PATH}?endpoint={endpoint.id}"},
    }


def _secret_view(secrets: list[str]) -> dict[str, Any]:
    return {"key": secrets[0], "previous": secrets[1] if len(secrets) > 1 else None}


def _time(ms: int | None) -> str | None:
    return format_timestamp(None if ms is None else ms * 1000)
