"""Routes of models: list versions and their status; load, unload, share, promote and roll back (admins only)."""

from dataclasses import asdict
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from api.asgi.fastapi_adapter import json_response, receive_body
from api.gateway.gateway import Gateway
from api.gateway.plan_changes import VERBS, change_plan, check_model_name
from api.routes import health
from jobs.contract.json_reader import read_object

PATH: Final = "/v1/models"
MAX_BYTES: Final = 4096


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter(tags=["models"])

    @routes.get(PATH, summary="List all models and versions with their status")
    async def list_models() -> Response:
        """Return what workers announce of each version: its inputs and outputs, its status, and its share of jobs."""
        return json_response(await health.list_models(gateway))

    @routes.get(f"{PATH}/{{name}}", summary="Read the versions and the rollout plan of a model")
    async def read_model(name: str) -> Response:
        """Return which versions are to be loaded and take jobs, and what workers have of them."""
        await gateway.catalog.refresh()
        return json_response(await _view(gateway, check_model_name(gateway, name)))

    for verb in VERBS:
        _add_verb(routes, gateway, verb)
    return routes


def _add_verb(routes: APIRouter, gateway: Gateway, verb: str) -> None:
    summary, _, _, text = VERBS[verb]
    text = f"{text} It needs a key with the role admin."

    @routes.post(f"{PATH}/{{name}}/{verb}", summary=summary, description=text, operation_id=f"{verb}Model")
    async def change(http: HttpRequest, name: str) -> Response:
        text = await receive_body(http, gateway.bodies, MAX_BYTES)
        await change_plan(gateway, name, verb, read_object(text, "the body") if text else {}, http.scope["caller"])
        return json_response(await _view(gateway, name))


async def _view(gateway: Gateway, name: str) -> dict[str, Any]:
    plan = gateway.catalog.plan(name)
    planned = {**asdict(plan), "watch": asdict(plan.watch) if plan.watch else None}
    return {"name": name, "plan": planned, "versions": await health.list_versions(gateway, name)}
