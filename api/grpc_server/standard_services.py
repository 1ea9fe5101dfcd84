"""Serves gRPC's standard services: health, for load balancers and probes, and reflection, for tools like grpcurl."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION
from grpc_reflection.v1alpha.reflection import aio as reflection_aio

from api.gateway.gateway import Gateway
from api.grpc_server.calls import Access, Call, Calls
from api.grpc_server.messages import parse
from api.grpc_server.service import SERVICE
from api.open_inference import metadata
from jobs.contract.errors import Refused

HEALTH: Final = "grpc.health.v1.Health"
WATCH_INTERVAL_S: Final = 0.5
_State = health_pb2.HealthCheckResponse


def handlers(calls: Calls) -> dict[str, Any]:
    """Return gRPC's handlers of both services, by path."""
    gateway = calls.gateway
    reflection = reflection_aio.ReflectionServicer([SERVICE, HEALTH, REFLECTION])

    async def check(call: Call) -> bytes:
        state = await _find_state(gateway, parse(health_pb2.HealthCheckRequest, await call.receive_small()).service)
        encoded: bytes = _State(status=state).SerializeToString()
        return encoded

    async def watch(call: Call) -> None:
        """Send the state, and each change of it."""
        service, sent = parse(health_pb2.HealthCheckRequest, await call.receive_small()).service, None
        while not calls.is_ending and gateway.callers.is_known(call.caller):
            try:
                state = await _find_state(gateway, service)
            except Refused:
                state = _State.SERVICE_UNKNOWN
            if state != sent:
                await call.send_next(_State(status=state).SerializeToString())
                sent = state
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def reflect(call: Call) -> None:
        async for answer in reflection.ServerReflectionInfo(_read_questions(call), None):
            await call.send_next(answer.SerializeToString())

    checks, watches, reflects = f"/{HEALTH}/Check", f"/{HEALTH}/Watch", f"/{REFLECTION}/ServerReflectionInfo"
    return {
        checks: calls.unary(checks, Access.PUBLIC, check),
        watches: calls.stream(watches, Access.KEY, watch),
        reflects: calls.stream(reflects, Access.KEY, reflect),
    }


async def _find_state(gateway: Gateway, service: str) -> int:
    """Return the state of a service: "" is the gateway; other names are those of models. Raises Refused if unknown."""
    if service in ("", SERVICE):
        is_ready = await metadata.is_server_ready(gateway)
    else:
        is_ready = metadata.is_model_ready(gateway, service)
    return int(_State.SERVING if is_ready else _State.NOT_SERVING)


async def _read_questions(call: Call) -> AsyncIterator[Any]:
    while (message := await call.receive_next()) is not None:
        yield parse(reflection_pb2.ServerReflectionRequest, message)
