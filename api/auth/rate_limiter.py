"""Limits each tenant's requests in one gateway process with GCRA: a quota per window that refills evenly."""

import math
from typing import Final, NamedTuple

PRUNE_THRESHOLD: Final = 1000  # tracked tenants above which those with a full quota are removed


class RateLimitResult(NamedTuple):
    """The state after a request: `retry_after_s` until the next is allowed, `reset_in_s` until the quota is full."""

    is_allowed: bool
    remaining: int
    retry_after_s: float
    reset_in_s: float


class RateLimiter:
    """Stores per tenant the time at which its quota is full again. Callers pass the time in seconds."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._full_at: dict[str, float] = {}  # by tenant; full quotas are pruned
        self._prune_at = PRUNE_THRESHOLD

    def take(self, tenant: str, quota: int, now: float) -> RateLimitResult:
        """Count a request if the quota allows it, at `now` in seconds."""
        emission_interval_s = self.window_s / quota
        full_at = max(self._full_at.get(tenant, now), now) + emission_interval_s
        late_s = full_at - now - self.window_s
        if late_s > emission_interval_s * 1e-6:
            reset_in_s = full_at - emission_interval_s - now
            return RateLimitResult(is_allowed=False, remaining=0, retry_after_s=late_s, reset_in_s=reset_in_s)
        self._full_at[tenant] = full_at
        if len(self._full_at) > self._prune_at:
            self._prune(now)
        remaining = math.floor((now + self.window_s - full_at) / emission_interval_s + 1e-6)
        return RateLimitResult(is_allowed=True, remaining=remaining, retry_after_s=0, reset_in_s=full_at - now)

    def _prune(self, now: float) -> None:
        """Remove tenants whose quota is full, so that the table does not grow without bound."""
        self._full_at = {tenant: full_at for tenant, full_at in self._full_at.items() if full_at > now}
        self._prune_at = 2 * len(self._full_at) + PRUNE_THRESHOLD
