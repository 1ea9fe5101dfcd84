"""The routes of models: what is there and how each version stands; load, unload, share, promote, roll back (admins)."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import orjson
from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_response import to_fastapi_response
from api.asgi.request import Request
from api.asgi.responses import HttpResponse
from api.gateway.gateway import Gateway
from api.routes import health
from jobs.contract.errors import Refused
from jobs.contract.json_reader import read_object
from jobs.metrics import event_counters
from jobs.metrics.event_counters import RunCounts
from jobs.models import rollout_plan, version_routing
from jobs.models.rollout_plan import RolloutPlan
from jobs.models.worker_registry import MODEL_VERSION, ClusterState

log = logging.getLogger("jitney.api")

PATH: Final = "/v1/models"
MAX_BYTES: Final = 4096
ADMIN_REASON: Final = "rolled back by an admin"
Body = Mapping[str, Any]


class _PlanRequest(NamedTuple):
    """What an admin asks of a model, and what is to be known for it."""

    cluster: ClusterState
    name: str
    version: str  # '' = none was named
    percent: int
    counted: Mapping[str, RunCounts]
    watch_s: float

    def stable(self, plan: RolloutPlan) -> str:
        """Give the version that takes the jobs."""
        return version_routing.find_stable(self.cluster, plan, self.name)

    def ready(self, version: str) -> str:
        """Give a version that is about to take jobs; raises Refused where none is named, or nobody runs it."""
        if not version:
            raise Refused("invalid_request", 'there is no canary: name a version, as {"version": "2"}')
        running = version_routing.list_running_versions(self.cluster, self.name)
        if version not in running:
            message = f"no live worker has version {version} of model {self.name} ready: load it, and wait until it is"
            raise Refused("version_not_ready", message, allowed=running)
        return version


def _load(plan_request: _PlanRequest, plan: RolloutPlan) -> RolloutPlan:
    if plan.unloaded and not plan_request.version:
        return rollout_plan.undo_unload(plan)
    stable = plan_request.stable(plan)
    if not (version := plan_request.version or stable):
        raise Refused(
            "invalid_request", "no version takes jobs now: name the one to load", allowed=_list_versions(plan_request)
        )
    return rollout_plan.load_version(plan, version, stable)


def _share(plan_request: _PlanRequest, plan: RolloutPlan) -> RolloutPlan:
    if not plan_request.version:
        raise Refused(
            "invalid_request", "name the version that is to have a share", allowed=_list_versions(plan_request)
        )
    return rollout_plan.set_canary_share(
        plan,
        plan_request.version,
        plan_request.percent,
        plan_request.stable(plan),
        plan_request.counted,
        now_s=plan_request.cluster.now_s,
    )


def _promote(plan_request: _PlanRequest, plan: RolloutPlan) -> RolloutPlan:
    version = plan_request.ready(plan_request.version or plan.canary)
    now_s = plan_request.cluster.now_s
    return rollout_plan.promote(
        plan, version, plan_request.stable(plan), plan_request.counted, plan_request.watch_s, now_s=now_s
    )


Step = Callable[[_PlanRequest, RolloutPlan], RolloutPlan]
# verb → (what it does, its fields, its step)
VERBS: Final[Mapping[str, tuple[str, tuple[str, ...], Step]]] = {
    "load": ("Load a version, or load it anew", ("version",), _load),
    "unload": (
        "Let a version go once its lines are empty, or the whole model",
        ("version",),
        lambda plan_request, plan: rollout_plan.unload_version(plan, plan_request.version, plan_request.stable(plan)),
    ),
    "share": ("Give a version a share of the jobs, as canary", ("version", "percent"), _share),
    "promote": ("Let a version take all jobs", ("version",), _promote),
    "rollback": (
        "End the canary, or give the jobs back to the version before",
        (),
        lambda _, plan: rollout_plan.roll_back(plan, ADMIN_REASON),
    ),
    "follow": ("Let the folder decide again", (), lambda _, plan: rollout_plan.follow_folder(plan)),
}


def router(gateway: Gateway) -> APIRouter:
    """All routes of models."""
    routes = APIRouter(tags=["models"])

    @routes.get(PATH, summary="What is served, by whom, and what could not be loaded")
    async def list_models() -> Response:
        return _json(await health.list_models(gateway))

    @routes.get(f"{PATH}/{{name}}", summary="How a model's versions stand, and what is planned with them")
    async def read_model(name: str) -> Response:
        await gateway.catalog.refresh()
        return _json(await _view(gateway, _check_model_name(gateway, name)))

    for verb in VERBS:
        _add(routes, gateway, verb)
    return routes


def _add(routes: APIRouter, gateway: Gateway, verb: str) -> None:
    summary, names, step = VERBS[verb]
    kinds = {
        "version": {"type": "string", "pattern": MODEL_VERSION.pattern},
        "percent": {"type": "integer", "maximum": 100},
    }
    schema = {"type": "object", "additionalProperties": False, "properties": {name: kinds[name] for name in names}}
    body = {"requestBody": {"content": {"application/json": {"schema": schema}}}}

    @routes.post(f"{PATH}/{{name}}/{verb}", summary=summary, operation_id=f"{verb}_model", openapi_extra=body)
    async def change(request: HttpRequest, name: str) -> Response:
        parsed_request = Request(request.scope)
        with gateway.bodies.hold(parsed_request.tenant, parsed_request.evict) as share:
            text = await parsed_request.body(request.receive, share, MAX_BYTES)
        fields = read_object(text, "the body") if text else {}
        await gateway.catalog.refresh()
        plan_request = await _read(gateway, _check_model_name(gateway, name), fields, names)
        plan, changed = await rollout_plan.update_plan(
            gateway.store.connection, name, lambda plan: step(plan_request, plan)
        )
        if changed:
            caller = request.scope["caller"]
            log.info(
                "model %s: %s %s, by %s: %s", name, verb, fields or "", caller.key_id or "no key", _describe_plan(plan)
            )
        await gateway.catalog.refresh()
        return _json(await _view(gateway, name))


async def _read(gateway: Gateway, name: str, fields: Body, allowed: tuple[str, ...]) -> _PlanRequest:
    """Read what is asked; raises Refused."""
    if unknown := [field for field in fields if field not in allowed]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(allowed))
    version, percent = fields.get("version", ""), fields.get("percent", 0)
    # A version that is null, false or "" is refused: to unload without one is to unload the whole model.
    if "version" in fields and not (isinstance(version, str) and MODEL_VERSION.fullmatch(version)):
        raise Refused("invalid_request", 'field "version" must be a version\'s number as text, such as "2"')
    if type(percent) is not int or not 0 <= percent <= 100 or ("percent" in allowed and "percent" not in fields):
        raise Refused("invalid_request", 'field "percent" must be a whole number from 0 to 100')
    totals = await gateway.store.counts()
    cluster = gateway.catalog.cluster
    counted = {one: event_counters.get_run_counts(totals, name, one) for one in cluster.versions(name)}
    plan_request = _PlanRequest(cluster, name, version, percent, counted, gateway.settings.rollback_watch_s)
    if version and version not in _list_versions(plan_request):
        message = f"no live worker has version {version} of model {name}"
        raise Refused("version_not_found", message, allowed=_list_versions(plan_request))
    return plan_request


def _list_versions(plan_request: _PlanRequest) -> list[str]:
    return plan_request.cluster.versions(plan_request.name)


def _check_model_name(gateway: Gateway, name: str) -> str:
    names = gateway.catalog.cluster.names()
    if name not in names:
        raise Refused("model_not_found", f"no model {name[:80]!r}", allowed=names)
    return name


async def _view(gateway: Gateway, name: str) -> dict[str, Any]:
    plan = gateway.catalog.plan(name)
    planned = {**asdict(plan), "watch": asdict(plan.watch) if plan.watch else None}
    return {"name": name, "plan": planned, "versions": await health.list_versions(gateway, name)}


def _describe_plan(plan: RolloutPlan) -> str:
    """Say a plan in a line."""
    said = {"stable": plan.stable, "canary": plan.canary and f"{plan.canary} ({plan.percent} %)", "before": plan.before}
    return "unloaded" if plan.unloaded else ", ".join(f"{role} {which}" for role, which in said.items() if which)


def _json(view: Mapping[str, Any], status: int = 200) -> Response:
    return to_fastapi_response(HttpResponse(status, orjson.dumps(view)))
