"""Whether this gateway takes jobs, and which models are served: for load balancers, operators and the page."""

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
    """List every version of every model, by name and number."""
    names = gateway.catalog.cluster.names()
    return {"models": [entry for name in names for entry in await list_versions(gateway, name)]}


async def list_versions(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    """List a model's versions; one entry without a version where its folder as a whole can not be read."""
    cluster = gateway.catalog.cluster
    cards = {card["version"]: card for card in cluster.cards if card["name"] == name}
    listed = [await _version(gateway, name, one, cards.get(one)) for one in cluster.versions(name)]
    if listed:
        return listed
    reason = cluster.failures().get(name)
    return [{"name": name, "version": None, "status": "failed", "reason": reason, "kinds": [], "workers": 0}]


async def _version(gateway: Gateway, name: str, version: str, card: ModelCard | None) -> dict[str, Any]:
    cluster, plan = gateway.catalog.cluster, gateway.catalog.plan(name)
    status, reason = _status(cluster, plan, name, version)
    facts = {"name": name, "version": version, "kinds": []} if card is None else card
    standing = version_routing.describe_version(cluster, plan, name, version)
    return {
        **facts,
        "ceilings": cluster.ceilings(name, version),
        "status": status,
        "reason": reason,
        "workers": cluster.serving(name, version),
        "waiting": await gateway.store.depth(name, version),
        **standing,
    }


def _status(cluster: ClusterState, plan: RolloutPlan, name: str, version: str) -> tuple[str, str | None]:
    """Say how a version is, and why, where that is not as it should be."""
    why = plan.bad.get(version)
    if workers := cluster.serving(name, version):
        if cluster.leaving(name, version) < workers:
            return "ready", why
        return "leaving", why or "it runs until its lines are empty"
    if cluster.loading(name, version):
        return "loading", why
    if reason := cluster.failure(name, version):
        return "failed", reason
    if version in cluster.folder_versions(name) and (
        plan.unloaded or version_routing.compute_shares(cluster, plan, name)
    ):
        return "available", why or "it lies in the folder, and is not loaded"
    return "unserved", why or "no live worker serves it"


async def check_ready(gateway: Gateway) -> HttpResponse:
    """`/readyz`: 200 where the queue answers and this gateway is not about to stop, whether or not a worker lives.

    The body says what is there, in `reason` why nothing is served, and in `warnings` what differs or is unsafe.
    """
    if gateway.is_draining:
        return _unready_response(gateway, "draining", "this gateway is about to stop")
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
    answer: dict[str, Any] = {"status": "ready", "workers": len(cluster.workers), "models": states}
    if not served:
        answer["reason"] = "no worker could load a model" if cluster.workers else "no worker is alive"
    if refusal := gateway.watermark.refusal("interactive"):
        answer["refusing"] = f"new jobs: {refusal}"  # what was taken goes on, and its callers must get through
    answer["warnings"] = config_differences.warnings(gateway)
    return HttpResponse(200, orjson.dumps(answer | describe_queue(gateway)))


def describe_queue(gateway: Gateway) -> dict[str, Any]:
    """Say whether the queue's server keeps what it is given, as of the last connection to it."""
    return {"queue": durability.describe_safety(gateway.store.connection.safety)}


async def served(gateway: Gateway, name: str) -> HttpResponse:
    """`/readyz/models/{name}`: 200 where a live worker takes new jobs of this model, else 503 with the reason.

    Raises Refused for a name that nobody has announced.
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
        why = cluster.failures().get(name, "no live worker serves it")
        reason = "this gateway is about to stop" if gateway.is_draining else why
        return HttpResponse(503, orjson.dumps({"status": "unready", "model": name, "reason": reason}))
    serving = {version: cluster.serving(name, version) for version in shares}
    return HttpResponse(200, orjson.dumps({"status": "ready", "model": name, "versions": serving}))


def _unready_response(gateway: Gateway, status: str, reason: str) -> HttpResponse:
    body = {"status": status, "reason": reason, "models": {}, "warnings": []}
    return HttpResponse(503, orjson.dumps(body | describe_queue(gateway)))
