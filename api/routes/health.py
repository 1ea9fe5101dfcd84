"""Builds the responses of `/readyz`, `/readyz/models/{name}` and the lists of models and their versions."""

from typing import Any

import orjson

from api.asgi.responses import HttpResponse
from api.gateway.gateway import Gateway
from api.metrics import config_differences
from jobs.contract.errors import Refused, StoreUnavailable
from jobs.models import version_routing
from jobs.models.catalog import ModelCard
from jobs.models.rollout_plan import RolloutPlan
from jobs.models.worker_registry import MODEL_NAME, ClusterState
from jobs.redis_client import durability


async def list_models(gateway: Gateway) -> dict[str, Any]:
    """Return all versions of all models, in the order of name and number."""
    names = gateway.catalog.cluster.names()
    return {"models": [entry for name in names for entry in await list_versions(gateway, name)]}


async def list_versions(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    """Return the versions of a model, or one entry without a version if its folder cannot be read."""
    cluster = gateway.catalog.cluster
    cards = {card["version"]: card for card in cluster.cards if card["name"] == name}
    listed = [await _version(gateway, name, version, cards.get(version)) for version in cluster.versions(name)]
    if listed:
        return listed
    reason = cluster.failures().get(name)
    return [{"name": name, "version": None, "status": "failed", "reason": reason, "kinds": [], "workers": 0}]


async def _version(gateway: Gateway, name: str, version: str, card: ModelCard | None) -> dict[str, Any]:
    cluster, plan = gateway.catalog.cluster, gateway.catalog.plan(name)
    status, reason = _status(cluster, plan, name, version)
    facts = {"name": name, "version": version, "kinds": []} if card is None else card
    return {
        **facts,
        "ceilings": cluster.ceilings(name, version),
        "status": status,
        "reason": reason,
        "workers": cluster.serving(name, version),
        "waiting": await gateway.store.depth(name, version),
        "paused": gateway.pauses.state.lanes(name),
        **version_routing.describe_version(cluster, plan, name, version),
    }


def _status(cluster: ClusterState, plan: RolloutPlan, name: str, version: str) -> tuple[str, str | None]:
    """Return the status of a version, and a reason if it is not healthy."""
    bad_reason = plan.bad.get(version)
    if workers := cluster.serving(name, version):
        if cluster.leaving(name, version) < workers:
            return "ready", bad_reason
        return "leaving", bad_reason or "it runs until its queues are empty"
    if cluster.loading(name, version):
        return "loading", bad_reason
    if reason := cluster.failure(name, version):
        return "failed", reason
    in_folder = version in cluster.folder_versions(name)
    if in_folder and (plan.unloaded or version_routing.compute_shares(cluster, plan, name)):
        return "available", bad_reason or "it is in the folder but not loaded"
    return "unserved", bad_reason or "no live worker serves it"


async def check_ready(gateway: Gateway) -> HttpResponse:
    """Return the response of `/readyz`: 200 if Redis answers and the gateway is not shutting down, else 503.

    The body lists the models; `reason` explains why none is served, and `warnings` lists differing settings and files.
    """
    if gateway.is_draining:
        return _unready_response(gateway, "draining", "this gateway is shutting down")
    try:
        await gateway.refresh_models()
    except StoreUnavailable as error:
        return _unready_response(gateway, "unready", error.message)
    if reason := gateway.store.connection.refusal:
        return _unready_response(gateway, "unready", reason)
    cluster = gateway.catalog.cluster
    served = {name.partition(" ")[0] for worker in cluster.workers for name in worker.models}
    states = {card["name"]: "unserved" for card in cluster.cards} | dict.fromkeys(cluster.failures(), "failed")
    states |= dict.fromkeys(served, "ready")
    body: dict[str, Any] = {"status": "ready", "workers": len(cluster.workers), "models": states}
    if not served:
        body["reason"] = "no worker could load a model" if cluster.workers else "no worker is alive"
    if refusal := gateway.watermark.refusal("interactive"):
        body["refusing"] = f"new jobs: {refusal}"  # still ready: accepted jobs go on, and callers read them
    if paused := gateway.pauses.state.queues:
        body["paused"] = sorted(f"{name} {lane}" for name, lane in paused)
    body["output_bytes"] = gateway.watermark.output_bytes
    body["warnings"] = config_differences.warnings(gateway)
    return HttpResponse(200, orjson.dumps(body | describe_queue(gateway)))


def describe_queue(gateway: Gateway) -> dict[str, Any]:
    """Return whether Redis stores data durably, as of the last connection to it."""
    return {"queue": durability.describe_safety(gateway.store.connection.safety)}


async def served(gateway: Gateway, name: str) -> HttpResponse:
    """Return the response of `/readyz/models/{name}`: 200 if a live worker takes new jobs of the model, else 503.

    Raises Refused if no worker has announced the name.
    """
    try:
        await gateway.refresh_models()
    except StoreUnavailable as error:
        return _unready_response(gateway, "unready", error.message)
    cluster, plan = gateway.catalog.cluster, gateway.catalog.plan(name)
    if not MODEL_NAME.fullmatch(name) or name not in cluster.names():
        raise Refused("model_not_found", f"no worker has announced a model {name[:64]!r}")
    shares = version_routing.compute_shares(cluster, plan, name)
    if gateway.is_draining or not shares:
        failure = cluster.failures().get(name, "no live worker serves it")
        reason = "this gateway is shutting down" if gateway.is_draining else failure
        return HttpResponse(503, orjson.dumps({"status": "unready", "model": name, "reason": reason}))
    serving = {version: cluster.serving(name, version) for version in shares}
    return HttpResponse(200, orjson.dumps({"status": "ready", "model": name, "versions": serving}))


def _unready_response(gateway: Gateway, status: str, reason: str) -> HttpResponse:
    body = {"status": status, "reason": reason, "models": {}, "warnings": []}
    return HttpResponse(503, orjson.dumps(body | describe_queue(gateway)))
