"""Which models callers may name, and which version a job gets: what workers announced and what is planned with it.

Kept fresh in the background, never a list of our own.
"""

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from jobs.contract.errors import Refused, RetryLater, StoreUnavailable
from jobs.models import rollout_plan, version_routing, worker_registry
from jobs.models.rollout_plan import FOLLOW_FOLDER, RolloutPlan
from jobs.models.worker_registry import ClusterState, version_number
from jobs.redis_client.client import RedisClient
from jobs.redis_client.periodic_refresh import PeriodicRefresh

log = logging.getLogger("jitney.api")

ModelCard = Mapping[str, Any]


class _VersionChoice(NamedTuple):
    """The versions that a model's new jobs are shared among; `up_to`: the sum of the shares up to each."""

    cards: list[ModelCard]
    up_to: list[float]


class ModelCatalog(PeriodicRefresh):
    """The models known to the queue."""

    def __init__(self, connection: RedisClient, default_model: str) -> None:
        super().__init__(log, "look at the models")
        self._connection, self._default = connection, default_model
        self._refreshed = asyncio.Event()
        self.cluster = ClusterState([], [])
        self.plans: Mapping[str, RolloutPlan] = {}
        self._found: dict[str, _VersionChoice] = {}  # what `find` chose among since the last look
        self._is_loaded, self._refreshed_at = False, 0.0

    async def refresh(self) -> None:
        """Look once."""
        planned: Mapping[str, RolloutPlan] = await rollout_plan.read_plans(self._connection)
        found = await worker_registry.read_cluster_state(self._connection)
        if not found.cards:  # a queue that has lost its data: workers will say again what they serve, nobody else will
            found = worker_registry.ClusterState(self.cluster.cards, found.workers, found.now_s)
            planned = planned or self.plans
        self.cluster, self.plans = found, planned
        self._found.clear()
        self._is_loaded, self._refreshed_at = True, time.monotonic()
        self._refreshed.set()

    async def refresh_if_older(self, age_s: float) -> None:
        """Look once, if the last look is so long ago."""
        if time.monotonic() - self._refreshed_at > age_s:
            await self.refresh()

    async def wait_for_refresh(self) -> None:
        """Wait for the next look."""
        self._refreshed.clear()
        await self._refreshed.wait()

    def names(self) -> list[str]:
        return sorted({card["name"] for card in self.cluster.cards})

    def find(self, name: str) -> ModelCard:
        """Give the card of the version that a new job is for; raises Refused for a name nobody announced."""
        if (choice := self._found.get(name)) is None:
            choice = self._found[name] = self._search(name)
        if len(choice.cards) == 1:
            return choice.cards[0]
        return random.choices(choice.cards, cum_weights=choice.up_to)[0]  # noqa: S311 (a share, no secret)

    def plan(self, name: str) -> RolloutPlan:
        return self.plans.get(name, FOLLOW_FOLDER)

    def _search(self, name: str) -> _VersionChoice:
        if not self._is_loaded:
            raise StoreUnavailable(
                "which models there are is not known yet: the queue can not be reached", retry_after_s=1
            )
        asked, name = name, name or self._only()
        cards = {card["version"]: card for card in self.cluster.cards if card["name"] == name}
        plan = self.plan(name)
        if plan.unloaded:
            message = f"model {name} is unloaded; `jitney models load {name}` brings it back"
            raise RetryLater("model_unavailable", message, retry_after_s=10)
        if parts := version_routing.compute_shares(self.cluster, plan, name):
            return _VersionChoice([cards[version] for version in parts], list(accumulate(parts.values())))
        reason = self.cluster.failures().get(name)
        if reason:
            raise RetryLater("model_unavailable", f"model {name} can not be loaded: {reason}", retry_after_s=10)
        if not cards:
            whose = "" if asked else ", which JITNEY_DEFAULT_MODEL names for requests that name none"
            raise Refused("model_not_found", f"no model {name[:80]!r}{whose}", allowed=self.names())
        if any(self.cluster.leaving(name, version) for version in cards):
            message = f"model {name} is being unloaded: its files are gone from the folder of models"
            raise RetryLater("model_unavailable", message, retry_after_s=10)
        # Nobody runs it: for whoever comes back.
        best = plan.stable if plan.stable in cards else max(cards, key=version_number)
        return _VersionChoice([cards[best]], [version_routing.ALL_PERCENT])

    def _only(self) -> str:
        if self._default:
            return self._default
        served = {card["name"] for card in self.cluster.cards if self.cluster.serving(card["name"], card["version"])}
        names = sorted(served) or self.names()
        if len(names) == 1:
            return names[0]
        if not names:
            raise Refused("model_not_found", "no worker has announced a model yet", allowed=[])
        raise Refused("model_required", "several models are served: name one", allowed=names)
