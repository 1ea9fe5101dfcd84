"""Whether jobs sent here would be taken and run, and by which models: for load balancers, operators and the page."""

from typing import Any

import orjson

from api.answers import Answer
from api.gateway import Gateway
from jobs import safety, versions
from jobs.catalogue import Card
from jobs.errors import StoreUnavailable
from jobs.plans import Plan
from jobs.registry import Announced


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
    standing = versions.standing(announced, plan, name, version)
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
    if version in announced.shelf(name) and (plan.unloaded or versions.shares(announced, plan, name)):
        return "available", why or "it lies in the folder, and is not loaded"
    return "unserved", why or "no live worker serves it"


async def ready(gateway: Gateway) -> Answer:
    """200 where the queue answers and a live worker serves at least one model; else 503, with what is missing."""
    try:
        await gateway.catalogue.refresh()
    except StoreUnavailable as error:
        return Answer(503, orjson.dumps({"status": "unready", "reason": error.message, "models": {}} | queue(gateway)))
    if reason := gateway.store.connection.refusal:
        return Answer(503, orjson.dumps({"status": "unready", "reason": reason, "models": {}} | queue(gateway)))
    announced = gateway.catalogue.announced
    served = {name.partition(" ")[0] for worker in announced.workers for name in worker.models}
    states = {card["name"]: "unserved" for card in announced.cards} | dict.fromkeys(announced.failures(), "failed")
    states |= dict.fromkeys(served, "ready")
    if not served:
        reason = "no worker is alive" if not announced.workers else "no worker could load a model"
        return Answer(503, orjson.dumps({"status": "unready", "reason": reason, "models": states} | queue(gateway)))
    answer = {"status": "ready", "workers": len(announced.workers), "models": states} | queue(gateway)
    if refusal := gateway.watermark.refusal("interactive"):
        answer["refusing"] = f"new jobs: {refusal}"  # what was taken goes on, and its callers must get through
    return Answer(200, orjson.dumps(answer))


def queue(gateway: Gateway) -> dict[str, Any]:
    """Say whether the queue's server keeps what it is given, as of the last connection to it."""
    return {"queue": safety.describe(gateway.store.connection.safety)}
