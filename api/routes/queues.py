"""Routes of queues: what waits and runs in them; pause, resume and purge them (admins only)."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import json_response, receive_body
from api.asgi.request import Request
from api.auth.audit import log_change
from api.gateway.gateway import Gateway
from api.routes.job_filters import read_job_cursor
from api.routes.list_queries import write_cursor
from jobs.contract.errors import Refused
from jobs.contract.job import LANES, Lane
from jobs.contract.job_view import format_timestamp
from jobs.contract.json_reader import read_object
from jobs.contract.lifecycle import State
from jobs.models import pauses
from jobs.models.pauses import SUBMIT_RULES, Pause
from jobs.models.worker_registry import MODEL_VERSION
from jobs.redis_client import keys
from jobs.store import job_search, queue_purge
from jobs.store.job_search import JobFilter, SearchScope
from jobs.store.queue_states import QueueState, read_queue_states

PATH: Final = "/v1/queues"
MAX_BODY_BYTES: Final = 4096
MAX_PURGED: Final = 50_000  # jobs per call
MAX_PURGE_S: Final = 10.0
PAUSE_FIELDS: Final = ("lane", "submits")
RESUME_FIELDS: Final = ("lane",)
PURGE_FIELDS: Final = ("confirm", "lane", "version", "cursor")


def router(gateway: Gateway) -> APIRouter:
    routes, connection = APIRouter(prefix=PATH, tags=["queues"]), gateway.store.connection

    @routes.get("", summary="List the queues of all models")
    async def list_queues(http: HttpRequest) -> Response:
        """Return what waits and runs by model, version and lane, since when, and what is paused.

        It needs a key with the role admin.
        """
        Request(http.scope).query()
        await gateway.refresh_models()
        return json_response(await gateway.lists.run(lambda _: describe_queues(gateway)))

    @routes.post("/{model}/pause", summary="Pause the queue of a model, or one lane of it")
    async def pause_queue(http: HttpRequest, model: str) -> Response:
        """Let no worker claim from it. Jobs that run go on. `submits` says whether new jobs are accepted meanwhile.

        The pause holds until the queue is resumed. It needs a key with the role admin.
        """
        fields = await _read_fields(http, gateway, model, PAUSE_FIELDS)
        lanes, submits = _read_lanes(fields), fields.get("submits", "accept")
        if submits not in SUBMIT_RULES:
            raise Refused("invalid_request", "field 'submits' says what becomes of new jobs", allowed=[*SUBMIT_RULES])
        await pauses.pause_queue(connection, model, lanes, submits, http.scope["caller"].key_id)
        log_change(http, "paused model %s, lanes %s: new jobs: %s", model, ", ".join(lanes), submits)
        return await _answer(model)

    @routes.post("/{model}/resume", summary="Resume the queue of a model, or one lane of it")
    async def resume_queue(http: HttpRequest, model: str) -> Response:
        """Let workers claim from it again. It needs a key with the role admin."""
        lanes = _read_lanes(await _read_fields(http, gateway, model, RESUME_FIELDS))
        await pauses.resume_queue(connection, model, lanes)
        log_change(http, "resumed model %s, lanes %s", model, ", ".join(lanes))
        return await _answer(model)

    @routes.post("/{model}/purge", summary="Cancel all jobs that wait in the queue of a model")
    async def purge_queue(http: HttpRequest, model: str) -> Response:
        """Cancel the jobs that were accepted before this call, lines of batches too.

        `confirm` repeats the model's name. It cancels up to 50,000 jobs a call: where `more` is true, call again with
        `next_cursor`. Jobs that run go on. It needs a key with the role admin.
        """
        fields = await _read_fields(http, gateway, model, PURGE_FIELDS)
        if fields.get("confirm") != model:
            message = f'the jobs that wait would be lost: confirm it by "confirm": "{model}"'
            raise Refused("invalid_request", message, param="confirm")
        version = fields.get("version", "")
        if version and not MODEL_VERSION.fullmatch(version):
            raise Refused("invalid_request", 'field "version" must be a version\'s number as text, such as "2"')
        lane = fields.get("lane", "")
        _read_lanes(fields)
        after = read_job_cursor(fields.get("cursor", ""))
        until_us = 1000 * (await connection.now_ms() + 1)
        query = JobFilter(None, frozenset({State.QUEUED}), model, version, lane, until_us=until_us)
        canceled, after = await queue_purge.purge_queue(
            gateway.store, query, _scope(gateway, model), after, MAX_PURGED, max_s=MAX_PURGE_S
        )
        log_change(http, "purged the queue of model %s %s: %d jobs canceled", model, fields, canceled)
        cursor = write_cursor(after, "-")
        return json_response({"canceled": canceled, "more": after is not None, "next_cursor": cursor})

    async def _answer(model: str) -> Response:
        await gateway.pauses.refresh()
        return json_response(await describe_queues(gateway, model))

    return routes


async def _read_fields(http: HttpRequest, gateway: Gateway, model: str, allowed: Collection[str]) -> dict[str, Any]:
    """Return the fields of a body of texts; raises Refused if one is unknown, or no such model is known."""
    text = await receive_body(http, gateway.bodies, MAX_BODY_BYTES)
    fields = read_object(text, "the body") if text else {}
    if unknown := [name for name in fields if name not in allowed]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(allowed))
    if wrong := [name for name, value in fields.items() if not isinstance(value, str)]:
        raise Refused("invalid_request", f"field {wrong[0]!r} must be a text")
    await gateway.refresh_models()
    names = {*gateway.catalog.cluster.names(), *(name for name, _ in gateway.pauses.state.queues)}
    if model not in names:
        raise Refused("model_not_found", f"no model {model[:80]!r}", allowed=sorted(names))
    return fields


def _read_lanes(fields: Mapping[str, Any]) -> list[Lane]:
    """Return the lane of a body, or all lanes if it names none; raises Refused."""
    lanes: list[Lane] = [lane for lane in LANES if fields.get("lane", lane) == lane]
    if not lanes:
        raise Refused("invalid_request", "unknown lane: see allowed", allowed=list(LANES))
    return lanes


def _scope(gateway: Gateway, model: str = "") -> SearchScope:
    cluster = gateway.catalog.cluster
    versions = [(card["name"], card["version"]) for card in cluster.cards if model in ("", card["name"])]
    return SearchScope(versions, (), cluster.longest_lease_s)


async def describe_queues(gateway: Gateway, model: str = "") -> dict[str, Any]:
    """Return the view of the queues of a model, or of all models if it is empty."""
    store, scope = gateway.store, _scope(gateway, model)
    running: Counter[tuple[str, str, str]] = Counter()
    running_rows: Counter[str] = Counter()
    for job in await job_search.list_running(store, scope.longest_lease_s):
        running[job.head.model, job.head.version, job.head.lane] += 1
        running_rows[job.head.model] += job.rows
    now_us = 1000 * await store.connection.now_ms()
    queues = []
    for name, version in scope.versions:
        states = await read_queue_states(store.connection, store.roots, name, version)
        for lane, state in states.items():
            queues.append(
                {
                    "model": name,
                    "version": version,
                    "lane": lane,
                    **_waiting_view(state, now_us),
                    "running": running[name, version, lane],
                    "paused": pause_view(gateway.pauses.state.queues.get((name, lane))),
                }
            )
    names = sorted({name for name, _ in scope.versions})
    return {"queues": queues, "models": await _model_views(gateway, names, running_rows)}


def _waiting_view(state: QueueState, now_us: int) -> dict[str, Any]:
    oldest_us = state.oldest_us
    age_s = None if oldest_us is None else round(max(0, now_us - oldest_us) / 1e6, 3)
    return {"waiting": state.waiting, "oldest_at": format_timestamp(oldest_us), "oldest_seconds": age_s}


def pause_view(pause: Pause | None) -> dict[str, Any] | None:
    """Return the view of a pause; None if there is none."""
    if pause is None:
        return None
    return {"submits": pause.submits, "since": format_timestamp(pause.since_s * 1_000_000), "by": pause.by or None}


async def _model_views(gateway: Gateway, names: list[str], running_rows: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return what the counters of open jobs have by model: rows and bytes of inputs."""
    store = gateway.store
    fields = [f"{name}:{what}" for name in names for what in ("jobs", "bytes")]
    commands = [("HMGET", keys.open_totals(shard), *fields) for shard in range(store.settings.shards)]
    shards = await store.connection.pipeline(commands) if fields else []
    sums = [sum(int(value or 0) for value in values) for values in zip(*shards, strict=True)]
    return [
        {
            "model": name,
            "open_rows": rows,
            "open_bytes": size,
            "running_rows": min(rows, running_rows[name]),
            "waiting_rows": max(0, rows - running_rows[name]),
        }
        for name, rows, size in zip(names, sums[::2], sums[1::2], strict=True)
    ]
