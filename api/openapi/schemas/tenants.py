"""Schemas of tenants: their usage and limits, and requests to change limits."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from api.openapi.schemas.bodies import RequestBody, ResponseBody
from jobs.tenants.limits import MAX_LIMIT, MAX_WEIGHT

Limit = Annotated[int, Field(ge=0, le=MAX_LIMIT)]


class TenantUsage(ResponseBody):
    """What a tenant has used since the queue was created."""

    jobs: int
    """Accepted jobs, lines of batches among them."""
    rows: int
    input_bytes: int
    jobs_run: int
    """Jobs that a worker ran, and whose result it wrote."""
    output_bytes: int
    device_seconds: float
    """Time of the runs, shared equally by the rows of each batch."""


class TenantLimits(ResponseBody):
    """The limits that hold. 0: no limit."""

    weight: int
    requests: int
    jobs: int
    bytes: int
    running: int


class OwnLimits(ResponseBody):
    """The limits that are stored for this tenant alone."""

    weight: int | None = None
    requests: int | None = None
    jobs: int | None = None
    bytes: int | None = None
    running: int | None = None


class TenantView(ResponseBody):
    """A tenant: its usage and limits."""

    tenant: str
    usage: TenantUsage
    limits: TenantLimits
    own_limits: OwnLimits

    example: ClassVar[dict[str, Any]] = {
        "tenant": "acme",
        "usage": {
            "jobs": 1200,
            "rows": 1264,
            "input_bytes": 391168,
            "jobs_run": 1190,
            "output_bytes": 96390,
            "device_seconds": 0.481,
        },
        "limits": {"weight": 2, "requests": 0, "jobs": 1000, "bytes": 0, "running": 0},
        "own_limits": {"weight": 2, "jobs": 1000},
    }


class TenantList(ResponseBody):
    """A page of tenants, in the order of their names."""

    tenants: list[TenantView]
    next_cursor: str | None

    example: ClassVar[dict[str, Any]] = {"tenants": [TenantView.example], "next_cursor": None}


class LimitsRequest(RequestBody):
    """Limits to change. Null restores the default, 0 means no limit."""

    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] | None = None
    requests: Limit | None = None
    jobs: Limit | None = None
    bytes: Limit | None = None
    running: Limit | None = None

    example: ClassVar[dict[str, Any]] = {"weight": 2, "jobs": 1000}

    @classmethod
    def _change_schema(cls, schema: dict[str, Any]) -> None:
        """Leave null allowed: it restores a default."""
