"""Route of the operations page: snapshots of the whole queue, by server-sent events (admins only)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.request import Request
from api.gateway.gateway import Gateway
from api.gateway.snapshot_feed import SnapshotFeed
from api.metrics import config_differences
from api.routes.events import stream_response
from api.routes.health import describe_queue
from api.routes.queues import describe_queues
from api.routes.workers import describe_workers
from jobs.contract.job_view import format_timestamp
from jobs.tenants import usage

PATH: Final = "/v1/ops/events"
# Events of the store's counts, `<event>:<model>`, and those by outcome or error code, `<event>:<model>:<label>`.
_COUNTED: Final = ("submitted", "retried", "reclaimed", "late")
_COUNTED_BY_LABEL: Final = ("finished", "failed")


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(tags=["queues"])
    feed = SnapshotFeed(lambda: read_snapshot(gateway))

    @routes.get(PATH, summary="Follow the whole queue, by server-sent events")
    async def follow_queue(http: HttpRequest) -> Response:
        """Send a snapshot of queues, workers, totals and warnings about once a second. The stream has no end.

        All listeners of a gateway get the same snapshots. It needs a key with the role admin.
        """
        Request(http.scope).query()
        caller = http.scope["caller"]
        gateway.events.check_stream_limit(caller.tenant)
        await feed.read_latest()  # an outage of Redis is an error, not an empty stream
        return stream_response(gateway.events.stream_snapshots(caller, feed, gateway.callers.is_known))

    return routes


async def read_snapshot(gateway: Gateway) -> bytes:
    """Return the JSON of a snapshot of the whole queue; raises StoreUnavailable."""
    await gateway.refresh_models()
    now_ms = await gateway.store.connection.now_ms()
    queues = await gateway.lists.run(lambda _: describe_queues(gateway))
    await _add_accepted(gateway, queues["queues"])
    refusal = gateway.watermark.refusal("interactive")
    snapshot = {
        "at": format_timestamp(1000 * now_ms),
        "gateway": gateway.id,
        **queues,
        "workers": await describe_workers(gateway),
        "totals": describe_totals(await gateway.store.counts()),
        "refusing": refusal.message if refusal else None,
        "warnings": config_differences.warnings(gateway),
        "redis": describe_queue(gateway)["queue"],
        "failed_models": gateway.catalog.cluster.failures(),
    }
    return orjson.dumps(snapshot)


async def _add_accepted(gateway: Gateway, queues: Sequence[dict[str, Any]]) -> None:
    """Add to the views of queues how many jobs each has accepted so far."""
    names = [(queue["model"], queue["version"], queue["lane"]) for queue in queues]
    for queue, accepted in zip(queues, await usage.read_accepted(gateway.store.connection, names), strict=True):
        queue["accepted"] = accepted


def describe_totals(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return how many jobs of each model were submitted and ended since the queue was created."""
    totals: dict[str, dict[str, Any]] = {}
    for name, count in sorted(counts.items()):
        match name.split(":"):
            case [event, model] if event in _COUNTED:
                _of_model(totals, model)[event] = count
            case [event, model, label] if event in _COUNTED_BY_LABEL:
                _of_model(totals, model)[event][label] = count
    return [{"model": model, **of_model} for model, of_model in totals.items()]


def _of_model(totals: dict[str, dict[str, Any]], model: str) -> dict[str, Any]:
    return totals.setdefault(model, dict.fromkeys(_COUNTED, 0) | {name: {} for name in _COUNTED_BY_LABEL})
