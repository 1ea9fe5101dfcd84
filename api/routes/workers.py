"""Routes of workers: what each serves and runs; stop and resume its claims (admins only)."""

import re
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import json_response
from api.asgi.request import Request
from api.auth.audit import log_change
from api.gateway.gateway import Gateway
from api.routes.queues import pause_view
from jobs.contract.errors import Refused
from jobs.contract.job_view import format_timestamp
from jobs.models import pauses, worker_registry
from jobs.models.worker_registry import WorkerReport

PATH: Final = "/v1/workers"
WORKER_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")


def router(gateway: Gateway) -> APIRouter:
    routes, connection = APIRouter(prefix=PATH, tags=["workers"]), gateway.store.connection

    @routes.get("", summary="List the live workers")
    async def list_workers(http: HttpRequest) -> Response:
        """Return what each worker serves, on which device, how much it runs, and when it was last heard of.

        It needs a key with the role admin.
        """
        Request(http.scope).query()
        return json_response({"workers": await describe_workers(gateway)})

    @routes.post("/{worker_id}/pause", summary="Have a worker claim no more jobs")
    async def pause_worker(http: HttpRequest, worker_id: str) -> Response:
        """Let the worker finish what it has, and serve nothing new until it is resumed or stops.

        It goes on to send heartbeats. It needs a key with the role admin.
        """
        alive = await _check_worker(worker_id)
        await pauses.pause_worker(connection, worker_id, http.scope["caller"].key_id, alive)
        log_change(http, "paused worker %s", worker_id)
        return await _answer(worker_id)

    @routes.post("/{worker_id}/resume", summary="Have a paused worker claim jobs again")
    async def resume_worker(http: HttpRequest, worker_id: str) -> Response:
        """Let the worker claim jobs again. It needs a key with the role admin."""
        await _check_worker(worker_id)
        await pauses.resume_worker(connection, worker_id)
        log_change(http, "resumed worker %s", worker_id)
        return await _answer(worker_id)

    async def _check_worker(worker_id: str) -> list[str]:
        """Return the ids of all live workers; raises Refused if it is none of them."""
        alive = [worker.id for worker in await worker_registry.read_workers(connection)]
        if worker_id not in alive or not WORKER_ID.fullmatch(worker_id):
            raise Refused("worker_not_found", f"no live worker {worker_id[:64]!r}", allowed=sorted(alive))
        return alive

    async def _answer(worker_id: str) -> Response:
        views = await describe_workers(gateway)
        view = next((view for view in views if view["id"] == worker_id), None)
        if view is None:
            raise Refused("worker_not_found", f"worker {worker_id} has stopped meanwhile")
        return json_response(view)

    return routes


async def describe_workers(gateway: Gateway) -> list[dict[str, Any]]:
    """Return the views of all live workers, those of a host together."""
    await gateway.pauses.refresh()
    connection = gateway.store.connection
    workers = await worker_registry.read_workers(connection)
    ages = await worker_registry.read_report_ages(connection, workers)
    by_host = sorted(workers, key=lambda worker: (worker.host, worker.started_s, worker.id))
    return [_worker_view(gateway, worker, ages.get(worker.id)) for worker in by_host]


def _worker_view(gateway: Gateway, worker: WorkerReport, age_s: float | None) -> dict[str, Any]:
    pause = gateway.pauses.state.workers.get(worker.id)
    changing = "pausing" if pause else "resuming"
    status = ("paused" if worker.is_paused else "serving") if worker.is_paused == bool(pause) else changing
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "status": status,
        "paused": pause_view(pause),
        "started_at": format_timestamp(worker.started_s * 1_000_000) if worker.started_s else None,
        "heartbeat_age_seconds": None if age_s is None else round(age_s, 3),
        "lease_seconds": worker.lease_s,
        "memory_bytes": worker.memory_bytes or None,
        "models": [
            {
                "name": name.partition(" ")[0],
                "version": name.partition(" ")[2],
                "device": worker.devices.get(name),
                "running": worker.running.get(name, 0),
                "leaving": name in worker.leaving,
            }
            for name in sorted(worker.models)
        ],
        "loading": worker.loading,
        "failed": worker.failed | worker.unloadable,
    }
