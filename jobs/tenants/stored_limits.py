"""Limits of single tenants as they are kept in the queue: read, changed, forgotten, and followed."""

import logging
from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError

from jobs.contract.errors import StoreUnavailable
from jobs.contract.ids import TENANT_NAME
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient
from jobs.redis_client.periodic_refresh import PeriodicRefresh
from jobs.tenants.limits import LimitOverride, TenantLimits

log = logging.getLogger("jitney.jobs")

LIMITS_CHANGED: Final = b"tenants"
MAX_CHANGE_ATTEMPTS: Final = 10  # to change what others change at the same time


class StoredLimits(PeriodicRefresh):
    """Keeps `Tenants` equal to what is kept in the queue."""

    def __init__(self, connection: RedisClient, tenants: TenantLimits) -> None:
        super().__init__(log, "look at the tenants' limits")
        self._connection, self._tenants = connection, tenants
        self._seen: Mapping[bytes, bytes] = {}

    async def refresh(self) -> None:
        """Look once."""
        found: Mapping[bytes, bytes] = await self._connection.command("HGETALL", keys.TENANTS)
        if found != self._seen:
            self._tenants.update(parse_limits(found))
            self._seen = found


def parse_limits(found: Mapping[bytes, bytes]) -> dict[str, LimitOverride]:
    """Read what is kept of each tenant. One that cannot be read has the default limits, and is named in the log."""
    kept = {}
    for name, text in found.items():
        try:
            tenant = name.decode()
            if TENANT_NAME.fullmatch(tenant):
                kept[tenant] = LimitOverride.model_validate_json(text)
                continue
        except (ValidationError, UnicodeDecodeError):
            pass
        log.warning("the limits of tenant %.80r cannot be read: it has the default ones", name)
    return kept


async def read_limits(connection: RedisClient) -> dict[str, LimitOverride]:
    """Read the limits of all tenants that have some of their own."""
    return parse_limits(await connection.command("HGETALL", keys.TENANTS))


async def update_limits(connection: RedisClient, tenant: str, given: Mapping[str, int | None]) -> LimitOverride:
    """Change some of a tenant's limits (None: the default again), and leave the others; gives what is kept now."""
    for _ in range(MAX_CHANGE_ATTEMPTS):
        text: bytes = await connection.command("HGET", keys.TENANTS, tenant) or b""
        before = parse_limits({tenant.encode(): text}).get(tenant, LimitOverride()) if text else LimitOverride()
        after = LimitOverride(**{**before.model_dump(exclude_none=True), **given})
        words = after.model_dump_json(exclude_none=True) if after != LimitOverride() else ""
        if await connection.script("generic/compare_and_set", keys.TENANTS, tenant, text, words):
            await connection.command("PUBLISH", keys.INVALIDATION, LIMITS_CHANGED)
            return after
    raise StoreUnavailable(f"the limits of tenant {tenant} are being changed by others all the time", retry_after_s=1)


async def delete_limits(connection: RedisClient, tenant: str) -> bool:
    """Forget a tenant's own limits, whether or not it had some: the default ones hold."""
    gone = bool(await connection.command("HDEL", keys.TENANTS, tenant))
    await connection.command("PUBLISH", keys.INVALIDATION, LIMITS_CHANGED)
    return gone
