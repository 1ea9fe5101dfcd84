"""Adapts FastAPI's routes to the gateway: the tenant and body of a request, response objects, names of operations."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
from fastapi import Depends, Response
from fastapi import Request as HttpRequest
from fastapi.routing import APIRoute
from pydantic.alias_generators import to_camel

from api.asgi.request import Request
from api.asgi.responses import SECURITY_HEADERS, Header, HttpResponse
from api.asgi.tenant_budgets import TenantBudget


async def _tenant_of(http: HttpRequest) -> str:
    return Request(http.scope).tenant


def operation_id(route: APIRoute) -> str:
    """Return the operationId of a route: the name of its function, as in `submitJob`."""
    return to_camel(route.name)


Tenant = Annotated[str, Depends(_tenant_of)]


async def receive_body(http: HttpRequest, bodies: TenantBudget, limit_bytes: int) -> bytes:
    """Return the decompressed body, counted in a budget while it is received; raises as `Request.body` does."""
    request = Request(http.scope)
    with bodies.hold(request.tenant, request.evict) as share:
        return await request.body(http.receive, share, limit_bytes)


def to_fastapi_response(source: HttpResponse) -> Response:
    """Return FastAPI's form of a response, with the security headers."""
    response = Response(source.body, source.status, media_type=source.content_type.decode())
    for name, value in (*SECURITY_HEADERS, *source.headers):
        response.headers[name.decode()] = value.decode()
    return response


def json_response(view: Mapping[str, Any], status: int = 200, headers: Sequence[Header] = ()) -> Response:
    return to_fastapi_response(HttpResponse(status, orjson.dumps(view), headers))
