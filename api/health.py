"""Whether jobs sent here would be taken and run, and by which models: for load balancers, operators and the page."""

from typing import Any

import orjson

from api.answers import Answer
from api.gateway import Gateway
from jobs.errors import StoreUnavailable


async def models(gateway: Gateway) -> dict[str, Any]:
    """List every model: ready, unserved (announced, but no worker lives that serves it) or failed, with the reason."""
    announced = gateway.catalogue.announced
    failures = announced.failures()
    listed = []
    for card in announced.cards:
        workers = announced.serving(card["name"], card["version"])
        status = "ready" if workers else "failed" if card["name"] in failures else "unserved"
        waiting = await gateway.store.depth(card["name"], card["version"])
        reason = None if workers else failures.get(card["name"], "no live worker serves it")
        ceilings = announced.ceilings(card["name"], card["version"])
        listed.append(
            {**card, "ceilings": ceilings, "status": status, "reason": reason, "workers": workers, "waiting": waiting}
        )
    known = {card["name"] for card in announced.cards}
    listed += [
        {"name": name, "version": None, "status": "failed", "reason": reason, "kinds": [], "workers": 0}
        for name, reason in sorted(failures.items())
        if name not in known
    ]
    return {"models": listed}


async def ready(gateway: Gateway) -> Answer:
    """200 where the queue answers and a live worker serves at least one model; else 503, with what is missing."""
    try:
        await gateway.catalogue.refresh()
    except StoreUnavailable as error:
        return Answer(503, orjson.dumps({"status": "unready", "reason": error.message, "models": {}}))
    announced = gateway.catalogue.announced
    served = {name.partition(" ")[0] for worker in announced.workers for name in worker.models}
    states = {card["name"]: "unserved" for card in announced.cards} | dict.fromkeys(announced.failures(), "failed")
    states |= dict.fromkeys(served, "ready")
    if not served:
        reason = "no worker is alive" if not announced.workers else "no worker could load a model"
        return Answer(503, orjson.dumps({"status": "unready", "reason": reason, "models": states}))
    answer = {"status": "ready", "workers": len(announced.workers), "models": states}
    if refusal := gateway.watermark.refusal("interactive"):
        answer["refusing"] = f"new jobs: {refusal}"  # what was taken goes on, and its callers must get through
    return Answer(200, orjson.dumps(answer))
