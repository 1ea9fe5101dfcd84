"""Loads and unloads a model and waits until that is done; HTTP and gRPC share it."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from api.auth.authentication import Caller
from api.gateway.gateway import Gateway
from api.gateway.plan_changes import change_plan
from api.open_inference import metadata
from jobs.contract.errors import Refused, RetryLater


async def load_model(gateway: Gateway, name: str, parameters: Mapping[str, Any], caller: Caller) -> None:
    """Load a model, or load it again, and return once it is ready. Raises JitneyError."""
    if unknown := [*parameters]:
        message = f"parameter {unknown[0][:80]!r} is not supported: models come from the models folder"
        raise Refused("invalid_request", message)
    await change_plan(gateway, name, "load", {}, caller)
    await _wait_until_ready(gateway, name)


async def unload_model(gateway: Gateway, name: str, caller: Caller) -> None:
    """Unload a model, and return once it is unloaded, or the wait for its queues is over. Raises JitneyError."""
    await change_plan(gateway, name, "unload", {}, caller)
    await _wait_until_unloaded(gateway, name)


async def _wait_until_ready(gateway: Gateway, name: str) -> None:
    """Return once a live worker serves the model. Raises Refused if it cannot be loaded, or the wait is over."""
    limit_s = gateway.settings.max_wait_s
    try:
        async with asyncio.timeout(limit_s):
            while not metadata.is_model_ready(gateway, name):
                if reason := gateway.catalog.cluster.failures().get(name):
                    raise RetryLater("model_unavailable", f"model {name} cannot be loaded: {reason}", retry_after_s=10)
                await gateway.catalog.wait_for_refresh()
    except TimeoutError:
        message = f"model {name} is not ready within {limit_s:g} s, and is still being loaded"
        raise Refused("wait_over", message, limit_s=limit_s) from None


async def _wait_until_unloaded(gateway: Gateway, name: str) -> None:
    """Return once no live worker runs the model, or the wait is over: it is unloaded when its queues are empty."""
    with suppress(TimeoutError):
        async with asyncio.timeout(gateway.settings.max_wait_s):
            while any(gateway.catalog.cluster.serving(name, each) for each in gateway.catalog.cluster.versions(name)):
                await gateway.catalog.wait_for_refresh()
