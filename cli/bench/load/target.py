"""Selects the model to measure from `GET /v1/models` of a running service."""

import http.client
import json
from typing import Any, NamedTuple

from cli.bench.errors import CannotMeasure
from cli.bench.load.connection import Address, get

BUNDLED_MODEL = "digits"


class Target(NamedTuple):
    """A model and its entry in `GET /v1/models`."""

    address: Address
    model: str
    card: dict[str, Any]

    @property
    def version(self) -> str:
        return str(self.card["version"])


def find_target(address: Address, model: str | None) -> Target:
    """Return the named model; without a name, the only one or the bundled one. Raises CannotMeasure."""
    listed = _list_models(address)
    names = sorted({card["name"] for card in listed})
    served = f"it serves: {', '.join(names) or 'none'}"
    if model is None:
        if len(names) != 1 and BUNDLED_MODEL not in names:
            raise CannotMeasure(f"{address} has {len(names)} models, name one with --model; {served}")
        model = names[0] if len(names) == 1 else BUNDLED_MODEL
    cards = [card for card in listed if card["name"] == model]
    if not cards:
        raise CannotMeasure(f"{address} has no model {model!r}; {served}")
    ready = [card for card in cards if card["status"] == "ready"]
    if not ready:
        raise CannotMeasure(f"model {model} is {cards[-1]['status']}: {cards[-1]['reason']}")
    return Target(address, model, max(ready, key=lambda card: int(card["version"])))


def _list_models(address: Address) -> list[dict[str, Any]]:
    try:
        status, body = get(address, "/v1/models")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise CannotMeasure(f"cannot reach the service at {address}: {reason}; `jitney up` starts one") from error
    try:
        listed = json.loads(body)["models"]
    except (ValueError, TypeError, KeyError) as error:
        text = body[:200].decode(errors="replace")
        raise CannotMeasure(f"{address}/v1/models returned {status}, not a list of models: {text}") from error
    return list(listed)
