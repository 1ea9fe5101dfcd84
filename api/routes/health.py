"""Whether this gateway takes jobs, and which models are served: for load balancers, operators and the page."""

from typing import Any

import orjson

from api.asgi.responses import Answer
from api.gateway.gateway import Gateway
from api.metrics import config_differences
from jobs.contract.errors import Refused, StoreUnavailable
from jobs.models import version_routing
from jobs.models.catalog import Card
from jobs.models.rollout_plan import Plan
from jobs.models.worker_registry import NAME, Announced
from jobs.redis_client import durability


async def models(gateway: Gateway) -> dict[str, Any]:
    """List every version of every model, by name and number."""
    names = gateway.catalogue.announced.names()
    return {"models": [entry for name in names for entry in await versions_of(gateway, name)]}


async def versions_of(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    """List a model's versions; one entry without a version where its folder as a whole can not be read."""
    announced = gateway.catalogue.announced
    cards = {card["version"]: card for card in announced.cards if card["name"] == name}
    listed = [await _version(gateway, name, one, cards.get(one)) for one in announced.versions(name)]
    if listed:
        return listed
    reason = announced.failures().get(name)
    return [{"name": name, "version": None, "status": "failed", "reason": reason, "kinds": [], "workers": 0}]


async def _version(gateway: Gateway, name: str, version: str, card: Card | None) -> dict[str, Any]:
    announced, plan = gateway.catalogue.announced, gateway.catalogue.plan(name)
    status, reason = _status(announced, plan, name, version)
    facts = {"name": name, "version": version, "kinds": []} if card is None else card
    standing = version_routing.standing(announced, plan, name, version)
    return {
        **facts,
        "ceilings": announced.ceilings(name, version),
        "status": status,
        "reason": reason,
        "workers": announced.serving(name, version),
        "waiting": await gateway.store.depth(name, version),
        **standing,
    }


def _status(announced: Announced, plan: Plan, name: str, version: str) -> tuple[str, str | None]:
    """Say how a version is, and why, where that is not as it should be."""
    why = plan.bad.get(version)
    if workers := announced.serving(name, version):
        if announced.leaving(name, version) < workers:
            return "ready", why
        return "leaving", why or "it runs until its lines are empty"
    if announced.loading(name, version):
        return "loading", why
    if reason := announced.failure(name, version):
        return "failed", reason
    if version in announced.shelf(name) and (plan.unloaded or version_routing.shares(announced, plan, name)):
        return "available", why or "it lies in the folder, and is not loaded"
    return "unserved", why or "no live worker serves it"


async def ready(gateway: Gateway) -> Answer:
    """`/readyz`: 200 where the queue answers and this gateway is not about to stop, whether or not a worker lives.

    The body says what is there, in `reason` why nothing is served, and in `warnings` what differs or is unsafe.
    """
    if gateway.is_draining:
        return _unready(gateway, "draining", "this gateway is about to stop")
    try:
        await gateway.look_at_models()
    except StoreUnavailable as error:
        return _unready(gateway, "unready", error.message)
    if reason := gateway.store.connection.refusal:
        return _unready(gateway, "unready", reason)
    announced = gateway.catalogue.announced
    served = {name.partition(" ")[0] for worker in announced.workers for name in worker.models}
    states = {card["name"]: "unserved" for card in announced.cards} | dict.fromkeys(announced.failures(), "failed")
    states |= dict.fromkeys(served, "ready")
    answer: dict[str, Any] = {"status": "ready", "workers": len(announced.workers), "models": states}
    if not served:
        answer["reason"] = "no worker could load a model" if announced.workers else "no worker is alive"
    if refusal := gateway.watermark.refusal("interactive"):
        answer["refusing"] = f"new jobs: {refusal}"  # what was taken goes on, and its callers must get through
    answer["warnings"] = config_differences.warnings(gateway)
    return Answer(200, orjson.dumps(answer | queue(gateway)))


def queue(gateway: Gateway) -> dict[str, Any]:
    """Say whether the queue's server keeps what it is given, as of the last connection to it."""
    return {"queue": durability.describe(gateway.store.connection.safety)}


async def served(gateway: Gateway, name: str) -> Answer:
    """`/readyz/models/{name}`: 200 where a live worker takes new jobs of this model, else 503 with the reason.

    Raises Refused for a name that nobody has announced.
    """
    try:
        await gateway.look_at_models()
    except StoreUnavailable as error:
        return _unready(gateway, "unready", error.message)
    announced, plan = gateway.catalogue.announced, gateway.catalogue.plan(name)
    if not NAME.fullmatch(name) or name not in announced.names():
        raise Refused("model_not_found", f"no worker has announced a model {name[:64]!r}")
    shares = version_routing.shares(announced, plan, name)
    if gateway.is_draining or not shares:
        why = announced.failures().get(name, "no live worker serves it")
        reason = "this gateway is about to stop" if gateway.is_draining else why
        return Answer(503, orjson.dumps({"status": "unready", "model": name, "reason": reason}))
    serving = {version: announced.serving(name, version) for version in shares}
    return Answer(200, orjson.dumps({"status": "ready", "model": name, "versions": serving}))


def _unready(gateway: Gateway, status: str, reason: str) -> Answer:
    body = {"status": status, "reason": reason, "models": {}, "warnings": []}
    return Answer(503, orjson.dumps(body | queue(gateway)))
