"""Parses filters of jobs, from the query of a list or the body of a cancellation, and finds the jobs that match."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

from fastapi import Query
from fastapi import Request as HttpRequest

from api.asgi.request import Request
from api.auth.authentication import DEFAULT_TENANT
from api.gateway.gateway import Gateway
from api.routes.list_queries import ALL_TENANTS, TIME_FORMAT, choose_tenant, read_time
from jobs.contract.errors import CODES, Refused
from jobs.contract.ids import JOB_ID, TENANT_NAME
from jobs.contract.job import LANES
from jobs.contract.job_request import MAX_METADATA
from jobs.contract.lifecycle import State
from jobs.models.worker_registry import MODEL_NAME, MODEL_VERSION
from jobs.store.job_search import OPEN, JobFilter, SearchScope
from jobs.store.record_pages import Position
from jobs.tenants import usage

FIELDS: Final = ("status", "model", "version", "lane", "tenant", "code", "since", "until")
METADATA_PREFIX: Final = "metadata."
_PLAIN_CURSOR: Final = re.compile(r"[0-9]{1,18}")
_CURSOR: Final = re.compile(rf"([0-9]{{1,18}})-({JOB_ID.pattern})")
_STATES: Final[dict[str, Any]] = {"examples": ["queued", "failed,expired"]}
_LANES: Final[dict[str, Any]] = {"enum": list(LANES)}
_STATUS_TEXT: Final = "a status, or several with commas"

Status = Annotated[str, Query(description=_STATUS_TEXT, json_schema_extra=_STATES)]
Model = Annotated[str, Query(description="name of the model")]
Version = Annotated[str, Query(description="version of the model")]
LaneName = Annotated[str, Query(description="lane", json_schema_extra=_LANES)]
TenantName = Annotated[str, Query(description="another tenant, or `*` for all; needs a key with the role admin")]
Code = Annotated[str, Query(description="error code of jobs that failed, expired or were canceled")]
Since = Annotated[str, Query(description=f"accepted at this time or later: {TIME_FORMAT}")]
Until = Annotated[str, Query(description="accepted before this time")]


def read_query_fields(http: HttpRequest, *others: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the filter fields of a query, and its metadata (`metadata.KEY=VALUE`); raises Refused.

    `others`: other fields that the query may have.
    """
    request = Request(http.scope)
    names = {name for name, _ in parse_qsl(request.query_string.decode("latin-1"), keep_blank_values=True)}
    metadata_names = [name for name in names if name.startswith(METADATA_PREFIX)]
    fields = request.query(*FIELDS, *others, *metadata_names)
    metadata = {name[len(METADATA_PREFIX) :]: fields.pop(name) for name in metadata_names}
    return {name: value for name, value in fields.items() if name in FIELDS}, metadata


def read_filter(http: HttpRequest, fields: Mapping[str, str], metadata: Mapping[str, str]) -> JobFilter:
    """Return the filter of these fields, which may be absent; raises Refused. Without `tenant`: the caller's own."""
    get = fields.get
    states = [name for name in get("status", "").split(",") if name]
    if unknown := [name for name in states if name not in set(State)]:
        raise Refused(
            "invalid_request", f"unknown status {unknown[0][:80]!r}", allowed=[state.value for state in State]
        )
    if (lane := get("lane", "")) and lane not in LANES:
        raise Refused("invalid_request", "unknown lane: see allowed", allowed=list(LANES))
    if (code := get("code", "")) and code not in CODES:
        raise Refused("invalid_request", f"unknown error code {code[:80]!r}")
    for name, pattern in (("model", MODEL_NAME), ("version", MODEL_VERSION), ("tenant", TENANT_NAME)):
        value = get(name, "")
        if value and not pattern.fullmatch(value) and (name, value) != ("tenant", ALL_TENANTS):
            raise Refused("invalid_request", f"{name} {value[:80]!r} is not a valid name")
    if len(metadata) > MAX_METADATA:
        raise Refused("invalid_request", f"a filter may have at most {MAX_METADATA} pairs of metadata")
    since, until = read_time("since", get("since", "")), read_time("until", get("until", ""))
    return JobFilter(
        tenant=choose_tenant(http.scope["caller"], get("tenant", "")),
        states=frozenset(map(State, states)),
        model=get("model", ""),
        version=get("version", ""),
        lane=lane,
        code=code,
        since_us=None if since is None else since * 1000,
        until_us=None if until is None else until * 1000,
        metadata=dict(metadata),
    )


def check_open_states(query: JobFilter) -> JobFilter:
    """Return the filter of open jobs; raises Refused if it names other states, or a code."""
    if query.states - OPEN or query.code:
        message = "only jobs that are queued or running can be canceled: filter by another status, and by no code"
        raise Refused("invalid_request", message, allowed=sorted(OPEN))
    return query._replace(states=query.states or OPEN)


async def read_scope(gateway: Gateway, query: JobFilter) -> SearchScope:
    """Return what is known of versions, leases and, if all are asked for, tenants; raises StoreUnavailable."""
    cluster = gateway.catalog.cluster
    versions = [(card["name"], card["version"]) for card in cluster.cards]
    if query.tenant is not None:
        return SearchScope(versions, (), cluster.longest_lease_s)
    tenants = {DEFAULT_TENANT, *await usage.read_known_tenants(gateway.store.connection)}
    return SearchScope(versions, sorted(tenants), cluster.longest_lease_s)


def read_job_cursor(cursor: str) -> Position | None:
    """Parse the cursor of a list of jobs, or return None if it is empty; raises Refused."""
    if not cursor:
        return None
    if _PLAIN_CURSOR.fullmatch(cursor):
        return Position(int(cursor), "")
    if match := _CURSOR.fullmatch(cursor):
        return Position(int(match[1]), match[2])
    raise Refused("invalid_request", "cursor must be the `next_cursor` of an earlier response")
