"""What is to be measured: one model of a running service, as the service itself describes it."""

import http.client
import json
from typing import Any, NamedTuple

from cli.bench.errors import CannotMeasure
from cli.bench.load.connection import Address, get

BUNDLED_MODEL = "digits"


class Target(NamedTuple):
    """A model and its card: what `GET /v1/models` says of it."""

    address: Address
    model: str
    card: dict[str, Any]

    @property
    def version(self) -> str:
        return str(self.card["version"])


def find_target(address: Address, model: str | None) -> Target:
    """Without a name: the only model, or the bundled one. Raises CannotMeasure."""
    listed = _list_models(address)
    names = sorted({card["name"] for card in listed})
    known = f"it serves: {', '.join(names) or 'none'}"
    if model is None:
        if len(names) != 1 and BUNDLED_MODEL not in names:
            raise CannotMeasure(f"{address} has {len(names)} models, name one with --model; {known}")
        model = names[0] if len(names) == 1 else BUNDLED_MODEL
    cards = [card for card in listed if card["name"] == model]
    if not cards:
        raise CannotMeasure(f"{address} has no model {model!r}; {known}")
    ready = [card for card in cards if card["status"] == "ready"]
    if not ready:
        raise CannotMeasure(f"model {model} is {cards[-1]['status']}: {cards[-1]['reason']}")
    return Target(address, model, max(ready, key=lambda card: int(card["version"])))


def _list_models(address: Address) -> list[dict[str, Any]]:
    try:
        status, body = get(address, "/v1/models")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise CannotMeasure(f"nothing answers at {address} ({reason}); `jitney up` starts a service") from error
    try:
        listed = json.loads(body)["models"]
    except (ValueError, TypeError, KeyError) as error:
        said = body[:200].decode(errors="replace")
        raise CannotMeasure(f"{address}/v1/models answers {status}, not a list of models: {said}") from error
    return list(listed)
