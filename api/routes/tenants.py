"""Routes of tenants: the usage of one's own tenant; usage and limits of all tenants (admins only)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response
from fastapi import Request as HttpRequest
from pydantic import ValidationError

from api.asgi.fastapi_adapter import Tenant, json_response, receive_body
from api.asgi.request import Request
from api.auth.audit import log_change
from api.auth.authentication import DEFAULT_TENANT
from api.gateway.gateway import Gateway
from api.routes.list_queries import Limit
from jobs.contract.errors import Refused
from jobs.contract.ids import TENANT_NAME
from jobs.contract.json_reader import read_object
from jobs.tenants import stored_limits, usage
from jobs.tenants.limits import LimitOverride, Limits
from jobs.tenants.usage import Usage

PATH: Final = "/v1/tenants"
MAX_BODY_BYTES: Final = 4096
LIMIT_FIELDS: Final = Limits._fields

TenantCursor = Annotated[str, Query(description="`next_cursor` of an earlier response")]


def router(gateway: Gateway) -> APIRouter:
    routes, connection = APIRouter(tags=["tenants"]), gateway.store.connection

    @routes.get("/v1/usage", summary="Read the usage and the limits of one's own tenant")
    async def read_usage(http: HttpRequest, tenant: Tenant) -> Response:
        """Return jobs, rows, bytes and device time since the queue was created, and the limits.

        Counts are up to `JITNEY_METRICS_FLUSH_S` old.
        """
        Request(http.scope).query()
        return await _answer(tenant)

    @routes.get(PATH, summary="List the tenants with their usage and limits")
    async def list_tenants(http: HttpRequest, limit: Limit = 20, cursor: TenantCursor = "") -> Response:
        """Return the tenants that have submitted jobs, or have a key or limits of their own, in the order of names.

        It needs a key with the role admin.
        """
        Request(http.scope).query("limit", "cursor")
        if cursor and not TENANT_NAME.fullmatch(cursor):
            raise Refused("invalid_request", "cursor must be the `next_cursor` of an earlier response")
        names = sorted({DEFAULT_TENANT, *await usage.read_known_tenants(connection)})
        behind = [name for name in names if name > cursor]
        views = await _describe_tenants(behind[:limit])
        return json_response({"tenants": views, "next_cursor": behind[limit - 1] if len(behind) > limit else None})

    @routes.get(f"{PATH}/{{tenant}}", summary="Read the usage and the limits of a tenant")
    async def read_tenant(tenant: str) -> Response:
        """Return zeros for a tenant that never submitted a job. It needs a key with the role admin."""
        return await _answer(_check_name(tenant))

    @routes.put(f"{PATH}/{{tenant}}/limits", summary="Change limits of a tenant")
    async def change_limits(http: HttpRequest, tenant: str) -> Response:
        """Change the limits that are named and keep the others; null restores the default. All processes follow.

        It needs a key with the role admin.
        """
        changes = _read_changes(await receive_body(http, gateway.bodies, MAX_BODY_BYTES))
        await stored_limits.update_limits(connection, _check_name(tenant), changes)
        log_change(http, "changed limits of tenant %s: %s", tenant, changes)
        await gateway.limits.refresh()
        return await _answer(tenant)

    @routes.delete(f"{PATH}/{{tenant}}/limits", summary="Restore the default limits of a tenant")
    async def restore_limits(http: HttpRequest, tenant: str) -> Response:
        """Delete the tenant's own limits, if it has any. It needs a key with the role admin."""
        if await stored_limits.delete_limits(connection, _check_name(tenant)):
            log_change(http, "restored the default limits of tenant %s", tenant)
        await gateway.limits.refresh()
        return await _answer(tenant)

    async def _answer(tenant: str) -> Response:
        (view,) = await _describe_tenants([tenant])
        return json_response(view)

    async def _describe_tenants(tenants: Sequence[str]) -> list[dict[str, Any]]:
        used = await usage.read_usage(connection, tenants)
        own = await stored_limits.read_limits(connection)
        known = gateway.store.tenants
        return [_tenant_view(name, used[name], known.limits(name), own.get(name, LimitOverride())) for name in tenants]

    return routes


def _check_name(tenant: str) -> str:
    if not TENANT_NAME.fullmatch(tenant):
        raise Refused("invalid_request", f"{tenant[:80]!r} is not the name of a tenant")
    return tenant


def _read_changes(text: bytes) -> Mapping[str, int | None]:
    """Parse the limits of a body; raises Refused."""
    fields = read_object(text, "the body")
    if unknown := [name for name in fields if name not in LIMIT_FIELDS]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(LIMIT_FIELDS))
    if not fields:
        raise Refused("invalid_request", "name at least one limit", allowed=list(LIMIT_FIELDS))
    try:
        LimitOverride.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused("invalid_request", f"{first['loc'][0]}: {first['msg']}") from error
    return fields


def _tenant_view(tenant: str, used: Usage, limits: Limits, own: LimitOverride) -> dict[str, Any]:
    """Return the view of a tenant. `limits`: those that hold; `own`: those that are stored for it alone."""
    return {
        "tenant": tenant,
        "usage": {
            **{name: value for name, value in used._asdict().items() if name != "device_us"},
            "device_seconds": used.device_us / 1e6,
        },
        "limits": limits._asdict(),
        "own_limits": own.model_dump(exclude_none=True),
    }
