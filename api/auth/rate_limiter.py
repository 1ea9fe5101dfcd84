"""Decides whether a tenant may send another request now: so many in a time, evenly given back. Owns no clock."""

import math
from typing import Final, NamedTuple

PRUNE_THRESHOLD: Final = 1000  # tenants that are kept before it is looked who need not be


class RateLimitResult(NamedTuple):
    """What is left after a request: `retry_after_s` until the next is taken, `reset_in_s` until all are there again."""

    is_allowed: bool
    quota: int
    remaining: int
    retry_after_s: float
    reset_in_s: float


class RateLimiter:
    """The requests of each tenant at this gateway, by the time at which it will have its whole quota again."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._full_at: dict[str, float] = {}  # by tenant; those that have their whole quota are left out in the end
        self._prune_at = PRUNE_THRESHOLD

    def take(self, tenant: str, quota: int, now: float) -> RateLimitResult:
        """Count a request, unless it is one too many; `now` in seconds."""
        emission_interval_s = self.window_s / quota
        full_at = max(self._full_at.get(tenant, now), now) + emission_interval_s
        late_s = full_at - now - self.window_s
        if late_s > emission_interval_s * 1e-6:
            return RateLimitResult(
                is_allowed=False,
                quota=quota,
                remaining=0,
                retry_after_s=late_s,
                reset_in_s=full_at - emission_interval_s - now,
            )
        self._full_at[tenant] = full_at
        if len(self._full_at) > self._prune_at:
            self._prune(now)
        remaining = math.floor((now + self.window_s - full_at) / emission_interval_s + 1e-6)
        return RateLimitResult(
            is_allowed=True, quota=quota, remaining=remaining, retry_after_s=0, reset_in_s=full_at - now
        )

    def _prune(self, now: float) -> None:
        """Forget tenants that have their whole quota again: keys come and go, a gateway stays."""
        self._full_at = {tenant: full_at for tenant, full_at in self._full_at.items() if full_at > now}
        self._prune_at = 2 * len(self._full_at) + PRUNE_THRESHOLD
