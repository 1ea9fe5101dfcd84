"""Changes the rollout plan of a model: load, unload, share, promote, roll back, follow."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from api.auth.authentication import Caller
from api.gateway.gateway import Gateway
from jobs.contract.errors import Refused
from jobs.metrics import event_counters
from jobs.metrics.event_counters import RunCounts
from jobs.models import rollout_plan, version_routing
from jobs.models.rollout_plan import RolloutPlan
from jobs.models.worker_registry import MODEL_VERSION, ClusterState

log = logging.getLogger("jitney.api")

Body = Mapping[str, Any]


class _PlanRequest(NamedTuple):
    """A requested change to the rollout plan of a model, with the data that it needs."""

    cluster: ClusterState
    name: str
    version: str  # empty if the request names none
    percent: int
    counted: Mapping[str, RunCounts]
    watch_s: float

    @property
    def versions(self) -> list[str]:
        return self.cluster.versions(self.name)

    def stable(self, plan: RolloutPlan) -> str:
        """Return the version that takes the jobs."""
        return version_routing.find_stable(self.cluster, plan, self.name)

    def ready(self, version: str) -> str:
        """Return `version`; raises Refused if it is empty or no live worker runs it."""
        if not version:
            raise Refused("invalid_request", 'there is no canary: name a version, as {"version": "2"}')
        running = version_routing.list_running_versions(self.cluster, self.name)
        if version not in running:
            message = f"no live worker has version {version} of model {self.name} ready: load it and wait"
            raise Refused("version_not_ready", message, allowed=running)
        return version


def _load(asked: _PlanRequest, plan: RolloutPlan) -> RolloutPlan:
    if plan.unloaded and not asked.version:
        return rollout_plan.undo_unload(plan)
    stable = asked.stable(plan)
    if not (version := asked.version or stable):
        raise Refused("invalid_request", "no version takes jobs: name the one to load", allowed=asked.versions)
    return rollout_plan.load_version(plan, version, stable)


def _share(asked: _PlanRequest, plan: RolloutPlan) -> RolloutPlan:
    if not asked.version:
        raise Refused("invalid_request", "name the version that gets a share", allowed=asked.versions)
    stable, now_s = asked.stable(plan), asked.cluster.now_s
    return rollout_plan.set_canary_share(plan, asked.version, asked.percent, stable, asked.counted, now_s=now_s)


def _promote(asked: _PlanRequest, plan: RolloutPlan) -> RolloutPlan:
    version = asked.ready(asked.version or plan.canary)
    stable, now_s = asked.stable(plan), asked.cluster.now_s
    return rollout_plan.promote(plan, version, stable, asked.counted, asked.watch_s, now_s=now_s)


def _unload(asked: _PlanRequest, plan: RolloutPlan) -> RolloutPlan:
    return rollout_plan.unload_version(plan, asked.version, asked.stable(plan))


def _roll_back(_: _PlanRequest, plan: RolloutPlan) -> RolloutPlan:
    return rollout_plan.roll_back(plan, "rolled back by an admin")


Step = Callable[[_PlanRequest, RolloutPlan], RolloutPlan]


class _Verb(NamedTuple):
    """A change to the rollout plan of a model: its fields, and its text in the OpenAPI document."""

    summary: str
    fields: tuple[str, ...]
    step: Step
    description: str


VERBS: Final[Mapping[str, _Verb]] = {
    "load": _Verb(
        "Load or reload a version",
        ("version",),
        _load,
        "Without a version: the one that takes the jobs, or all that an unload of the model removed.",
    ),
    "unload": _Verb(
        "Unload a version, or the whole model",
        ("version",),
        _unload,
        "Unload it once its queues are empty. Without a version: the whole model.",
    ),
    "share": _Verb(
        "Send a share of the jobs to a version as canary",
        ("version", "percent"),
        _share,
        "The other jobs go to the stable version. A canary that does worse is rolled back.",
    ),
    "promote": _Verb(
        "Send all jobs to a version", ("version",), _promote, "Without a version: the canary. It must be ready."
    ),
    "rollback": _Verb(
        "End the canary, or return to the previous version",
        (),
        _roll_back,
        "The previous version takes all jobs again. The version that is left is not chosen again.",
    ),
    "follow": _Verb(
        "Follow the versions in the folder again",
        (),
        lambda _, plan: rollout_plan.follow_folder(plan),
        "The highest version in the folder takes the jobs, or the one that `model.toml` names.",
    ),
}


async def change_plan(gateway: Gateway, name: str, verb: str, fields: Body, caller: Caller) -> None:
    """Change the rollout plan of a model by one of `VERBS`, then read all models. Raises JitneyError."""
    await gateway.catalog.refresh()
    change, store = VERBS[verb], gateway.store
    asked = await _parse_fields(gateway, check_model_name(gateway, name), fields, change.fields)
    plan, changed = await rollout_plan.update_plan(store.connection, name, lambda plan: change.step(asked, plan))
    if changed:
        by = caller.key_id or "no key"
        log.info("model %s: %s %s, by %s: %s", name, verb, fields or "", by, _describe_plan(plan))
    await gateway.catalog.refresh()


async def _parse_fields(gateway: Gateway, name: str, fields: Body, allowed: tuple[str, ...]) -> _PlanRequest:
    """Validate the fields of a change; raises Refused."""
    if unknown := [field for field in fields if field not in allowed]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(allowed))
    version, percent = fields.get("version", ""), fields.get("percent", 0)
    # Refuse a version that is null, false or "", because an unload without a version unloads the whole model.
    if "version" in fields and not (isinstance(version, str) and MODEL_VERSION.fullmatch(version)):
        raise Refused("invalid_request", 'field "version" must be a version\'s number as text, such as "2"')
    if type(percent) is not int or not 0 <= percent <= 100 or ("percent" in allowed and "percent" not in fields):
        raise Refused("invalid_request", 'field "percent" must be a whole number from 0 to 100')
    totals = await gateway.store.counts()
    cluster = gateway.catalog.cluster
    counts = {each: event_counters.get_run_counts(totals, name, each) for each in cluster.versions(name)}
    asked = _PlanRequest(cluster, name, version, percent, counts, gateway.settings.rollback_watch_s)
    if version and version not in asked.versions:
        message = f"no live worker has version {version} of model {name}"
        raise Refused("version_not_found", message, allowed=asked.versions)
    return asked


def check_model_name(gateway: Gateway, name: str) -> str:
    """Return `name`; raises Refused if no live worker has such a model."""
    names = gateway.catalog.cluster.names()
    if name not in names:
        raise Refused("model_not_found", f"no model {name[:80]!r}", allowed=names)
    return name


def _describe_plan(plan: RolloutPlan) -> str:
    """Return a one-line description of a plan, for the log."""
    canary = plan.canary and f"{plan.canary} ({plan.percent} %)"
    roles = {"stable": plan.stable, "canary": canary, "before": plan.before}
    return "unloaded" if plan.unloaded else ", ".join(f"{role} {version}" for role, version in roles.items() if version)
