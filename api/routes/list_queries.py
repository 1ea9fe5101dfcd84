"""Parses what the queries of several lists share: a time, a page's cursor, and either a filter or all."""

import re
from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Final

from fastapi import Depends, Query
from fastapi import Request as HttpRequest

from api.asgi.request import Request
from api.auth.authentication import Caller
from jobs.contract.errors import Refused
from jobs.store.record_pages import Position

ALL_TENANTS: Final = "*"  # in place of a tenant
TIME_FORMAT: Final = "RFC 3339 with its time zone, as in 2026-01-31T09:30:00Z"

Limit = Annotated[int, Query(ge=1, le=100, description="entries of a page")]
After = Annotated[str, Query(description="id of the last entry of the page before")]
Cursor = Annotated[str, Query(description="`next_cursor` of an earlier response")]
All = Annotated[
    str,
    Query(
        alias="all",
        json_schema_extra={"enum": ["true"]},
        description="`true` in place of a filter: everything in the list",
    ),
]


def choose_tenant(caller: Caller, tenant: str) -> str | None:
    """Return the tenant that a caller asks for ("": its own), or None for all tenants; raises Refused."""
    if tenant in ("", caller.tenant):
        return caller.tenant
    if not caller.is_admin:
        raise Refused("forbidden", "the data of other tenants needs an API key with the role admin")
    return None if tenant == ALL_TENANTS else tenant


def read_requested_tenant(
    http: HttpRequest,
    tenant: Annotated[str, Query(description="another tenant, or `*` for all; needs a key with the role admin")] = "",
) -> str | None:
    """Return the tenant of the query, or None for all tenants; raises Refused."""
    return choose_tenant(http.scope["caller"], tenant)


RequestedTenant = Annotated[str | None, Depends(read_requested_tenant)]


def read_named_tenant(
    http: HttpRequest,
    tenant: Annotated[str, Query(description="another tenant; needs a key with the role admin")] = "",
) -> str:
    """Return the tenant of the query, or the caller's own; raises Refused, also for all tenants at once."""
    found = choose_tenant(http.scope["caller"], tenant)
    if found is None:
        raise Refused("invalid_request", "tenant must be the name of one tenant")
    return found


NamedTenant = Annotated[str, Depends(read_named_tenant)]


def read_time(name: str, text: str) -> int | None:
    """Parse a time of a query to ms since the epoch, or None if it is empty; raises Refused."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise Refused("invalid_request", f"{name} must be a time in {TIME_FORMAT}, not {text[:80]!r}")
    return int(time.timestamp() * 1000)


def check_filter_or_all(http: HttpRequest, every: str, what: str, filters: Collection[str], *others: str) -> None:
    """Raise Refused unless the query has either some of the filters or all=true. `others`: other fields it may have."""
    query = Request(http.scope).query(*filters, *others, "cursor", "all")
    if every not in ("", "true") or bool(every) == any(query.get(name) for name in filters):
        message = f"select {what} by at least one filter, or all of them by all=true, but not both"
        raise Refused("invalid_request", message, allowed=[*filters, "all=true"])


def write_cursor(position: Position | None, separator: str) -> str | None:
    """Return the cursor of the next page: the time, the separator and the id of a position."""
    return f"{position.time}{separator}{position.id}" if position else None


def read_cursor(cursor: str, separator: str, record_id: re.Pattern[str]) -> Position | None:
    """Parse a cursor, or return None if it is empty; raises Refused."""
    if not cursor:
        return None
    time, _, last_id = cursor.partition(separator)
    if not (time.isascii() and time.isdigit() and len(time) < 16 and record_id.fullmatch(last_id)):
        raise Refused("invalid_request", "cursor must be the `next_cursor` of an earlier response")
    return Position(int(time), last_id)
