"""Decides whether a tenant may send another request now: so many in a time, evenly given back. Owns no clock."""

import math
from typing import Final, NamedTuple

TIDY: Final = 1000  # tenants that are kept before it is looked who need not be


class Allowance(NamedTuple):
    """What is left after a request: `back_in_s` until the next is taken, `full_in_s` until all are there again."""

    taken: bool
    quota: int
    remaining: int
    back_in_s: float
    full_in_s: float


class Rates:
    """The requests of each tenant at this gateway, by the time at which it will have its whole quota again."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._full_at: dict[str, float] = {}  # by tenant; those that have their whole quota are left out in the end
        self._tidy_at = TIDY

    def take(self, tenant: str, quota: int, now: float) -> Allowance:
        """Count a request, unless it is one too many; `now` in seconds."""
        of_one_s = self.window_s / quota
        full_at = max(self._full_at.get(tenant, now), now) + of_one_s
        late_s = full_at - now - self.window_s
        if late_s > of_one_s * 1e-6:
            return Allowance(
                taken=False, quota=quota, remaining=0, back_in_s=late_s, full_in_s=full_at - of_one_s - now
            )
        self._full_at[tenant] = full_at
        if len(self._full_at) > self._tidy_at:
            self._tidy(now)
        remaining = math.floor((now + self.window_s - full_at) / of_one_s + 1e-6)
        return Allowance(taken=True, quota=quota, remaining=remaining, back_in_s=0, full_in_s=full_at - now)

    def _tidy(self, now: float) -> None:
        """Forget tenants that have their whole quota again: keys come and go, a gateway stays."""
        self._full_at = {tenant: full_at for tenant, full_at in self._full_at.items() if full_at > now}
        self._tidy_at = 2 * len(self._full_at) + TIDY
