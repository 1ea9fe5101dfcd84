"""Limits and weight of each tenant: defaults from the settings, overrides from the settings or Redis.

Overrides in Redis (`jitney tenants`) take precedence over JITNEY_TENANTS and JITNEY_TENANT_*. All processes refresh
them periodically, and at once on notification.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field

from jobs.contract.ids import TENANT_NAME

NO_LIMIT: Final = 1 << 53  # beyond the largest exact integer in Lua
MAX_LIMIT: Final = NO_LIMIT - 1
MAX_WEIGHT: Final = 1000
MAX_QUOTAS: Final = 1000  # cached results of `TenantLimits.quota`


class Limits(NamedTuple):
    """Limits of one tenant; 0: no limit."""

    weight: int = 1
    requests: int = 0
    jobs: int = 0
    bytes: int = 0
    running: int = 0


class LimitOverride(BaseModel):
    """Limits of one tenant that differ from the default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    weight: int | None = Field(None, ge=1, le=MAX_WEIGHT)
    requests: int | None = Field(None, ge=0, le=MAX_LIMIT)
    jobs: int | None = Field(None, ge=0, le=MAX_LIMIT)
    bytes: int | None = Field(None, ge=0, le=MAX_LIMIT)
    running: int | None = Field(None, ge=0, le=MAX_LIMIT)


def read_overrides(text: Any) -> Any:
    """Parse the setting JITNEY_TENANTS, JSON such as `{"acme": {"weight": 3, "jobs": 1000}}`. Raises ValueError."""
    if not isinstance(text, str):
        return text
    try:
        overrides = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        message = f"it is not JSON: {error}"
        raise ValueError(message) from error
    if not isinstance(overrides, dict) or not all(TENANT_NAME.fullmatch(name) for name in overrides):
        message = 'it must be a JSON object by tenant, such as {"acme": {"weight": 3, "jobs": 1000}}'
        raise ValueError(message)
    return overrides


class TenantLimits:
    """Limits of all tenants."""

    def __init__(self, default: Limits, overrides: Mapping[str, LimitOverride], shards: int = 1) -> None:
        self._default, self._shards, self._overrides = default, shards, dict(overrides)
        self._known: dict[str, Limits] = {}
        self.shares = b""
        self.update({})

    def update(self, stored: Mapping[str, LimitOverride]) -> None:
        """Apply the overrides stored in Redis; they take precedence over those of the settings."""
        merged = {**self._overrides, **stored}
        self._known = {
            name: self._default._replace(**override.model_dump(exclude_none=True)) for name, override in merged.items()
        }
        self._quotas: dict[str, str] = {}  # results of `quota`
        self.shares = self._shares()

    def limits(self, tenant: str) -> Limits:
        return self._known.get(tenant, self._default)

    def with_byte_quota(self) -> list[str]:
        """Return the tenants whose own limits include one of bytes."""
        return sorted(tenant for tenant, limits in self._known.items() if limits.bytes)

    def quota(self, tenant: str) -> str:
        """Return the tenant's limits for `submit.lua`: most open jobs and bytes on one shard; "" without limits.

        "claimed": claim enforces a limit of running jobs, so submit must not hand jobs over.
        """
        quota = self._quotas.get(tenant)
        if quota is None:
            if len(self._quotas) >= MAX_QUOTAS:
                self._quotas.clear()
            quota = self._quotas[tenant] = self._quota(self.limits(tenant))
        return quota

    def _quota(self, limits: Limits) -> str:
        has_quota = limits.jobs or limits.bytes
        parts = [str(self._per_shard(most)) for most in (limits.jobs, limits.bytes)] if has_quota else []
        return " ".join([*parts, "claimed"] if limits.running else parts)

    def _shares(self) -> bytes:
        """Return weight and most running jobs by tenant for `claim.lua`; "" if all tenants are alike."""
        shares = {"": self._default} | self._known
        if all((limits.weight, limits.running) == (1, 0) for limits in shares.values()):
            return b""
        return orjson.dumps({name: [s.weight, self._per_shard(s.running)] for name, s in shares.items()})

    def _per_shard(self, limit: int) -> int:
        return max(1, limit // self._shards) if limit else NO_LIMIT
