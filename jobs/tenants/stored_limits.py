"""Limits of single tenants in Redis: read, change, delete, and refresh a process's copy."""

import logging
from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError

from jobs.contract.ids import TENANT_NAME
from jobs.redis_client import generic_scripts, keys
from jobs.redis_client.client import RedisClient
from jobs.redis_client.periodic_refresh import PeriodicRefresh
from jobs.tenants.limits import LimitOverride, TenantLimits

log = logging.getLogger("jitney.jobs")

LIMITS_CHANGED: Final = b"tenants"


class StoredLimits(PeriodicRefresh):
    """Keeps a `TenantLimits` up to date with Redis."""

    def __init__(self, connection: RedisClient, tenants: TenantLimits) -> None:
        super().__init__(log, "refresh the tenants' limits")
        self._connection, self._tenants = connection, tenants
        self._seen: Mapping[bytes, bytes] = {}

    async def refresh(self) -> None:
        """Read the limits once."""
        stored: Mapping[bytes, bytes] = await self._connection.command("HGETALL", keys.TENANTS)
        if stored != self._seen:
            self._tenants.update(parse_limits(stored))
            self._seen = stored


def parse_limits(stored: Mapping[bytes, bytes]) -> dict[str, LimitOverride]:
    """Parse stored limits by tenant. An unreadable record is logged, and its tenant has the default limits."""
    overrides = {}
    for name, text in stored.items():
        try:
            tenant = name.decode()
            if TENANT_NAME.fullmatch(tenant):
                overrides[tenant] = LimitOverride.model_validate_json(text)
                continue
        except (ValidationError, UnicodeDecodeError):
            pass
        log.warning("cannot read the limits of tenant %.80r, which has the default limits now", name)
    return overrides


async def read_limits(connection: RedisClient) -> dict[str, LimitOverride]:
    """Read the stored limits of all tenants."""
    return parse_limits(await connection.command("HGETALL", keys.TENANTS))


async def update_limits(connection: RedisClient, tenant: str, changes: Mapping[str, int | None]) -> LimitOverride:
    """Change some of a tenant's limits (None: back to the default) and return those stored now."""
    after = LimitOverride()

    def change(text: bytes) -> bytes:
        nonlocal after
        before = parse_limits({tenant.encode(): text}).get(tenant, LimitOverride()) if text else LimitOverride()
        after = LimitOverride(**{**before.model_dump(exclude_none=True), **changes})
        return after.model_dump_json(exclude_none=True).encode() if after != LimitOverride() else b""

    await generic_scripts.replace_field(connection, keys.TENANTS, tenant, change, f"the limits of tenant {tenant} are")
    await connection.command("PUBLISH", keys.INVALIDATION, LIMITS_CHANGED)
    return after


async def delete_limits(connection: RedisClient, tenant: str) -> bool:
    """Delete a tenant's own limits, so that the defaults apply; return whether it had any."""
    existed = bool(await connection.command("HDEL", keys.TENANTS, tenant))
    await connection.command("PUBLISH", keys.INVALIDATION, LIMITS_CHANGED)
    return existed
