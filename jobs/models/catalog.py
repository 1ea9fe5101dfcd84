"""Catalog of the models that callers may name; chooses the version that a new job gets.

Built from the announcements of workers and the rollout plans, and refreshed in the background.
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
    """Versions that share a model's new jobs. `up_to`: cumulated share up to each, in percent."""

    cards: list[ModelCard]
    up_to: list[float]


class ModelCatalog(PeriodicRefresh):
    """Models known to the queue."""

    def __init__(self, connection: RedisClient, default_model: str) -> None:
        super().__init__(log, "refresh the models")
        self._connection, self._default = connection, default_model
        self._refreshed = asyncio.Event()
        self.cluster = ClusterState([], [])
        self.plans: Mapping[str, RolloutPlan] = {}
        # Results of `find` since the last refresh, by name, or name and version.
        self._choices: dict[str | tuple[str, str], _VersionChoice] = {}
        self._is_loaded, self._refreshed_at = False, 0.0

    async def refresh(self) -> None:
        """Read the announcements and plans once."""
        plans: Mapping[str, RolloutPlan] = await rollout_plan.read_plans(self._connection)
        cluster = await worker_registry.read_cluster_state(self._connection)
        if not cluster.cards:  # the queue lost its data: keep the models until workers announce them again
            cluster = worker_registry.ClusterState(self.cluster.cards, cluster.workers, cluster.now_s)
            plans = plans or self.plans
        self.cluster, self.plans = cluster, plans
        self._choices.clear()
        self._is_loaded, self._refreshed_at = True, time.monotonic()
        self._refreshed.set()

    async def refresh_if_older(self, age_s: float) -> None:
        """Refresh if the last refresh is more than `age_s` seconds ago."""
        if time.monotonic() - self._refreshed_at > age_s:
            await self.refresh()

    async def wait_for_refresh(self) -> None:
        """Wait for the next refresh."""
        self._refreshed.clear()
        await self._refreshed.wait()

    @property
    def is_loaded(self) -> bool:
        """Return whether the announcements were read once."""
        return self._is_loaded

    def names(self) -> list[str]:
        return sorted({card["name"] for card in self.cluster.cards})

    def find(self, name: str, version: str = "") -> ModelCard:
        """Return the card of the version for a new job. Raises Refused for an unknown model or version.

        `version`: the one that the caller asks for; empty: the one that the rollout plan chooses.
        """
        key = (name, version) if version else name
        if (choice := self._choices.get(key)) is None:
            choice = self._choices[key] = self._search_version(name, version) if version else self._search(name)
        if len(choice.cards) == 1:
            return choice.cards[0]
        return random.choices(choice.cards, cum_weights=choice.up_to)[0]  # noqa: S311 (load sharing, not secrecy)

    def plan(self, name: str) -> RolloutPlan:
        return self.plans.get(name, FOLLOW_FOLDER)

    def _search(self, name: str) -> _VersionChoice:
        if not self._is_loaded:
            raise StoreUnavailable("the models are not known yet: Redis cannot be reached", retry_after_s=1)
        requested, name = name, name or self._default_name()
        cards = {card["version"]: card for card in self.cluster.cards if card["name"] == name}
        plan = self.plan(name)
        if plan.unloaded:
            message = f"model {name} is unloaded; `jitney models load {name}` brings it back"
            raise RetryLater("model_unavailable", message, retry_after_s=10)
        if shares := version_routing.compute_shares(self.cluster, plan, name):
            return _VersionChoice([cards[version] for version in shares], list(accumulate(shares.values())))
        reason = self.cluster.failures().get(name)
        if reason:
            raise RetryLater("model_unavailable", f"model {name} cannot be loaded: {reason}", retry_after_s=10)
        if not cards:
            origin = "" if requested else ", which JITNEY_DEFAULT_MODEL names for requests that name none"
            hint = "" if self.names() else "; no model is served yet: workers load them when they start"
            raise Refused("model_not_found", f"no model {name[:80]!r}{origin}{hint}", allowed=self.names())
        if any(self.cluster.leaving(name, version) for version in cards):
            message = f"model {name} is being unloaded: its files are gone from the models folder"
            raise RetryLater("model_unavailable", message, retry_after_s=10)
        # No live worker runs it: queue the job for the next worker that does.
        best = plan.stable if plan.stable in cards else max(cards, key=version_number)
        return _VersionChoice([cards[best]], [version_routing.ALL_PERCENT])

    def _search_version(self, name: str, version: str) -> _VersionChoice:
        chosen = self._search(name)  # raises for a model that takes no jobs
        name = chosen.cards[0]["name"]
        cards = {card["version"]: card for card in self.cluster.cards if card["name"] == name}
        running = version_routing.list_running_versions(self.cluster, name)
        # While no worker runs the model, a job waits for the next worker, as in `_search`.
        if version not in (running or cards):
            message = f"no live worker runs version {version[:20]} of model {name}"
            raise Refused("version_not_found", message, allowed=running or [*cards])
        return _VersionChoice([cards[version]], [version_routing.ALL_PERCENT])

    def _default_name(self) -> str:
        if self._default:
            return self._default
        served = {card["name"] for card in self.cluster.cards if self.cluster.serving(card["name"], card["version"])}
        names = sorted(served) or self.names()
        if len(names) == 1:
            return names[0]
        if not names:
            raise Refused("model_not_found", "no worker has announced a model yet", allowed=[])
        raise Refused("model_required", "several models are served: name one", allowed=names)
