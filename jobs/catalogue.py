"""Which models callers may name: what workers announced, kept fresh in the background, never a list of our own."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from jobs import registry
from jobs.connection import Connection
from jobs.errors import NotNow, Refused, StoreUnavailable
from jobs.outage import Outage
from jobs.registry import Announced

log = logging.getLogger("jitney.api")

Card = Mapping[str, Any]


class Catalogue:
    """The models known to the queue."""

    def __init__(self, connection: Connection, default_model: str) -> None:
        self._connection, self._default = connection, default_model
        self._look = asyncio.Event()
        self.announced = Announced([], [])
        self._found: dict[str, Card] = {}  # what `find` gave since the last look
        self._looked, self._looked_at = False, 0.0

    def look_again(self) -> None:
        """Have the background loop look at once."""
        self._look.set()

    async def refresh(self) -> None:
        """Look once."""
        found = await registry.announced(self._connection)
        if not found.cards:  # a queue that has lost its data: workers will say again what they serve, nobody else will
            found = registry.Announced(self.announced.cards, found.workers)
        self.announced = found
        self._found.clear()
        self._looked, self._looked_at = True, time.monotonic()

    async def refresh_if_older(self, age_s: float) -> None:
        """Look once, if the last look is so long ago."""
        if time.monotonic() - self._looked_at > age_s:
            await self.refresh()

    async def run(self, every_s: float) -> None:
        """Look again and again, until cancelled."""
        outage = Outage(log, "look at the models")
        while True:
            self._look.clear()
            try:
                await self.refresh()
                outage.ended()
            except StoreUnavailable as error:
                outage.began(error)
            try:
                await asyncio.wait_for(self._look.wait(), every_s)
            except TimeoutError:
                continue

    def names(self) -> list[str]:
        return sorted({card["name"] for card in self.announced.cards})

    def find(self, name: str) -> Card:
        """Give the card of the version that a new job is for; raises Refused for a name nobody announced."""
        if (found := self._found.get(name)) is None:
            found = self._found[name] = self._search(name)
        return found

    def _search(self, name: str) -> Card:
        if not self._looked:
            raise StoreUnavailable(
                "which models there are is not known yet: the queue can not be reached", retry_after_s=1
            )
        asked, name = name, name or self._only()
        cards = [card for card in self.announced.cards if card["name"] == name]
        serving = [card for card in cards if self.announced.serving(card["name"], card["version"])]
        reason = self.announced.failures().get(name)
        if reason and not serving:
            raise NotNow("model_unavailable", f"model {name} can not be loaded: {reason}", retry_after_s=10)
        if not cards:
            whose = "" if asked else ", which DEFAULT_MODEL names for requests that name none"
            raise Refused("model_not_found", f"no model {name[:80]!r}{whose}", allowed=self.names())
        return max(serving or cards, key=lambda card: int(card["version"]))

    def _only(self) -> str:
        if self._default:
            return self._default
        served = {
            card["name"] for card in self.announced.cards if self.announced.serving(card["name"], card["version"])
        }
        names = sorted(served) or self.names()
        if len(names) == 1:
            return names[0]
        if not names:
            raise Refused("model_not_found", "no worker has announced a model yet", allowed=[])
        raise Refused("model_required", "several models are served: name one", allowed=names)
