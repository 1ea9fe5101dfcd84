"""Shares a budget of bytes, requests or jobs between tenants; a full one evicts requests of the largest tenant.

A tenant may hold at most `THRESHOLD_FACTOR` times what remains free (the dynamic threshold by which network switches
share a packet buffer). One tenant alone can thus use four fifths of a budget, and the next one finds room. A tenant
with no more than an equal part is always served: if too little is free, requests of the largest tenant are evicted,
those first that have not grown for longest.
"""

from collections.abc import Callable
from typing import Final, Self

from jobs.contract.errors import RetryLater

THRESHOLD_FACTOR: Final = 4
RETRY_AFTER_S: Final = 1


class TenantBudget:
    """A limit on an amount that all tenants hold together."""

    def __init__(self, limit: int, what: str, refuse: Callable[[str], RetryLater], largest: int = 0) -> None:
        """Create a budget. `what` names the unit in messages; a tenant alone may always hold `largest`."""
        self._limit, self._largest = limit, min(largest, limit)
        self._what, self._refuse = what, refuse
        self._held: dict[str, int] = {}  # amount by tenant; zero is left out
        self._evictable_shares: dict[str, dict[BudgetShare, None]] = {}  # by tenant, longest unchanged first
        self.used = 0

    def hold(self, tenant: str, evict: Callable[[], None] | None = None) -> "BudgetShare":
        """Return an empty share of the budget. Use it in a `with` statement, or call `release` at the end.

        `evict` ends the request that holds the share. Without it, the share cannot be evicted.
        """
        return BudgetShare(self, tenant, evict)

    def check(self, tenant: str, amount: int) -> None:
        """Raise the error from `refuse` if a tenant may not take `amount` more."""
        held = self._held.get(tenant, 0)
        if held + amount <= THRESHOLD_FACTOR * (self._limit - self.used - amount):
            return
        if held == self.used and held + amount <= self._largest:
            return
        if self._is_equal_part(held + amount, tenant) and amount <= self._limit - self.used + self._evictable(tenant):
            return
        others = self.used - held
        message = f"this gateway holds {held} {self._what} of this tenant and {others} of others, at most {self._limit}"
        raise self._refuse(f"{message}; a part is reserved for other tenants: send the request again later")

    def take(self, share: "BudgetShare", amount: int) -> None:
        """Add an amount to a share, evicting others if needed; raises as `check` does."""
        tenant = share.tenant
        held = self._held.get(tenant, 0)
        if held + amount > THRESHOLD_FACTOR * (self._limit - self.used - amount):
            self.check(tenant, amount)
            while self.used + amount > self._limit:
                self._evict(tenant)
            held = self._held.get(tenant, 0)
        self._held[tenant] = held + amount
        self.used += amount
        if share.evict is not None:
            own = self._evictable_shares.get(tenant)
            if own is None:
                own = self._evictable_shares[tenant] = {}
            elif share.size:
                own.pop(share, None)
            own[share] = None
        share.size += amount

    def give_back(self, share: "BudgetShare", amount: int) -> None:
        """Return an amount of a share to the budget."""
        tenant = share.tenant
        left = self._held.get(tenant, 0) - amount
        if left:
            self._held[tenant] = left
        else:
            self._held.pop(tenant, None)
        self.used -= amount

    def keep(self, share: "BudgetShare") -> None:
        """Make a share not evictable."""
        own = self._evictable_shares.get(share.tenant)
        if own is not None:
            own.pop(share, None)
            if not own:
                del self._evictable_shares[share.tenant]

    def _is_equal_part(self, amount: int, tenant: str) -> bool:
        """Return whether an amount is at most an equal part, with room for one more tenant."""
        tenants = len(self._held) + (tenant not in self._held)
        return amount * (tenants + 1) <= self._limit

    def _evictable(self, tenant: str) -> int:
        """Return the amount held by other tenants that can be evicted and hold more than an equal part."""
        held = (self._held[other] for other in self._evictable_shares)
        return sum(amount for amount in held if not self._is_equal_part(amount, tenant))

    def _evict(self, tenant: str) -> None:
        """Evict a request of the tenant that holds most; raises if none of them is evictable."""
        error = self._refuse(f"other tenants need these {self._what}: send the request again later")
        largest = max(self._held, key=lambda other: self._held[other])
        share = next(iter(self._evictable_shares.get(largest, ())), None)
        if share is None or largest == tenant:
            raise error
        evict = share.evict
        share.revoke(error)
        if evict is not None:
            evict()


class BudgetShare:
    """The part of a budget that one request holds."""

    __slots__ = ("_budget", "_revoked", "evict", "size", "tenant")

    def __init__(self, budget: TenantBudget, tenant: str, evict: Callable[[], None] | None) -> None:
        self._budget, self.tenant, self.evict = budget, tenant, evict
        self.size = 0
        self._revoked: RetryLater | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def expect(self, amount: int) -> None:
        """Raise if the budget has no room for `amount`."""
        self._budget.check(self.tenant, amount)

    def grow(self, amount: int) -> None:
        """Take `amount` more; raises as `TenantBudget.check` does, and if this share was evicted."""
        if self._revoked is not None:
            raise self._revoked
        if amount:
            self._budget.take(self, amount)

    def resize(self, size: int) -> None:
        """Change the size of the share; raises as `grow` does if it grows."""
        if size > self.size:
            self.grow(size - self.size)
        elif not size:
            self.release()
        elif size < self.size:
            self._budget.give_back(self, self.size - size)
            self.size = size

    def release(self) -> None:
        """Return the whole share to the budget."""
        if self.size:
            self._budget.give_back(self, self.size)
            self.keep()  # while the size says that the budget may evict it
            self.size = 0

    def keep(self) -> None:
        """Make this share not evictable, because its request is being processed."""
        if self.evict is not None:
            self.evict = None
            if self.size:
                self._budget.keep(self)

    def revoke(self, error: RetryLater) -> None:
        """Release the share and make later calls of `grow` raise the error."""
        self._revoked = error
        self.resize(0)
