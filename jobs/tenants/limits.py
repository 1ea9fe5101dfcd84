"""What one tenant may take of the service, and how much it weighs beside the others.

Limits of single tenants are kept in the queue (`jitney tenants`); TENANT_* and TENANTS are the defaults of those that
have none there. Gateways, workers and deliverers look again and again, and at once when there is news.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field

from jobs.contract.ids import TENANT_NAME

NO_LIMIT: Final = 1 << 53  # as far as Lua counts
MAX_LIMIT: Final = NO_LIMIT - 1
MAX_WEIGHT: Final = 1000


class Limits(NamedTuple):
    """One tenant's limits; 0: none."""

    weight: int = 1
    requests: int = 0
    jobs: int = 0
    bytes: int = 0
    running: int = 0


class LimitOverride(BaseModel):
    """Where one tenant's limits are not those of all."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    weight: int | None = Field(None, ge=1, le=MAX_WEIGHT)
    requests: int | None = Field(None, ge=0, le=MAX_LIMIT)
    jobs: int | None = Field(None, ge=0, le=MAX_LIMIT)
    bytes: int | None = Field(None, ge=0, le=MAX_LIMIT)
    running: int | None = Field(None, ge=0, le=MAX_LIMIT)


def read_overrides(text: Any) -> Any:
    """Read the setting TENANTS, JSON as `{"acme": {"weight": 3, "jobs": 1000}}`; raises ValueError."""
    if not isinstance(text, str):
        return text
    try:
        given = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        message = f"it is no JSON: {error}"
        raise ValueError(message) from error
    if not isinstance(given, dict) or not all(TENANT_NAME.fullmatch(name) for name in given):
        message = 'it must be a JSON object by tenant, as {"acme": {"weight": 3, "jobs": 1000}}'
        raise ValueError(message)
    return given


class TenantLimits:
    """The limits of every tenant."""

    def __init__(self, default: Limits, overrides: Mapping[str, LimitOverride], shards: int = 1) -> None:
        self._default, self._shards, self._settings = default, shards, dict(overrides)
        self._known: dict[str, Limits] = {}
        self.shares = b""
        self.update({})

    def update(self, kept: Mapping[str, LimitOverride]) -> None:
        """Take in the limits that are kept in the queue; they stand in place of what TENANTS says of a tenant."""
        own = {**self._settings, **kept}
        self._known = {name: self._default._replace(**one.model_dump(exclude_none=True)) for name, one in own.items()}
        self.shares = self._shares()

    def limits(self, tenant: str) -> Limits:
        return self._known.get(tenant, self._default)

    def quota(self, tenant: str) -> str:
        """Give what `submit.lua` has to keep to: the most open jobs and bytes on one shard; empty where all may.

        "claimed": only so many may run, which claim counts; so no worker is handed them.
        """
        limits = self.limits(tenant)
        words = (
            [str(self._per_shard(most)) for most in (limits.jobs, limits.bytes)] if limits.jobs or limits.bytes else []
        )
        return " ".join([*words, "claimed"] if limits.running else words)

    def _shares(self) -> bytes:
        """Give what `claim.lua` has to keep to, weight and most running jobs by tenant; empty where all are alike."""
        shares = {"": self._default} | self._known
        if all((one.weight, one.running) == (1, 0) for one in shares.values()):
            return b""
        return orjson.dumps({name: [one.weight, self._per_shard(one.running)] for name, one in shares.items()})

    def _per_shard(self, limit: int) -> int:
        return max(1, limit // self._shards) if limit else NO_LIMIT
