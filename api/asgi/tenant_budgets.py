"""Budgets of one gateway process that its tenants share: bytes of request bodies, requests under way, jobs waited for.

A tenant may hold at most `FACTOR` times what is free after it took its part (the dynamic threshold by which network
switches share a packet buffer). So a tenant that is alone can use four fifths of a budget, and the next finds room.
Where several have left too little, a tenant that would hold no more than an equal part gets its room nevertheless:
requests of the tenant that holds most are ended, those first that have stood still longest.
"""

from collections.abc import Callable
from typing import Final, Self

from jobs.contract.errors import RetryLater

THRESHOLD_FACTOR: Final = 4
RETRY_AFTER_S: Final = 1


class TenantBudget:
    """One budget."""

    def __init__(self, limit: int, what: str, refuse: Callable[[str], RetryLater], largest: int = 0) -> None:
        """`what` names the unit in messages. A tenant that is alone may always hold `largest`, within the limit."""
        self._limit, self._largest = limit, min(largest, limit)
        self._what, self._refuse = what, refuse
        self._held: dict[str, int] = {}  # by tenant; those that hold nothing are not in it
        self._shares: dict[
            str, dict[BudgetShare, None]
        ] = {}  # those that can be ended, by tenant: longest unchanged first
        self.used = 0

    def hold(self, tenant: str, evict: Callable[[], None] | None = None) -> "BudgetShare":
        """Begin to hold something that grows; use it in a `with`, which gives it back at the end.

        `evict` ends the request that holds it, where others need the room; None: it cannot be ended.
        """
        return BudgetShare(self, tenant, evict)

    def check(self, tenant: str, amount: int) -> None:
        """Raise what `refuse` makes of a message where a tenant may not hold so much more."""
        held = self._held.get(tenant, 0)
        if held + amount <= THRESHOLD_FACTOR * (self._limit - self.used - amount):
            return
        if held == self.used and held + amount <= self._largest:
            return
        if self._is_equal_part(held + amount, tenant) and amount <= self._limit - self.used + self._evictable(tenant):
            return
        others = self.used - held
        message = f"this gateway holds {held} {self._what} of yours and {others} of others, and may hold {self._limit}"
        raise self._refuse(f"{message}; a part of that is kept free for other tenants: send it again later")

    def take(self, share: "BudgetShare", amount: int) -> None:
        """Count more for a share; raises as `check` does."""
        tenant = share.tenant
        self.check(tenant, amount)
        while self.used + amount > self._limit:
            self._evict(tenant)
        self._held[tenant] = self._held.get(tenant, 0) + amount
        self.used += amount
        if share.evict is not None:
            own = self._shares.setdefault(tenant, {})
            own.pop(share, None)
            own[share] = None

    def give_back(self, share: "BudgetShare", amount: int) -> None:
        """Count off what was taken."""
        tenant = share.tenant
        left = self._held.get(tenant, 0) - amount
        if left:
            self._held[tenant] = left
        else:
            self._held.pop(tenant, None)
        self.used -= amount

    def keep(self, share: "BudgetShare") -> None:
        """Do not end a share's request any more."""
        own = self._shares.get(share.tenant)
        if own is not None:
            own.pop(share, None)
            if not own:
                del self._shares[share.tenant]

    def _is_equal_part(self, amount: int, tenant: str) -> bool:
        """Whether so much is no more than each tenant would have, with one more beside them."""
        tenants = len(self._held) + (tenant not in self._held)
        return amount * (tenants + 1) <= self._limit

    def _evictable(self, tenant: str) -> int:
        """Count what other tenants hold that hold more than an equal part, and can be ended."""
        return sum(self._held[other] for other in self._shares if not self._is_equal_part(self._held[other], tenant))

    def _evict(self, tenant: str) -> None:
        """End a request of the tenant that holds most; raises where none of its can be ended."""
        lost = self._refuse(f"other tenants need the room of these {self._what}: send it again later")
        most = max(self._held, key=lambda other: self._held[other])
        share = next(iter(self._shares.get(most, ())), None)
        if share is None or most == tenant:
            raise lost
        evict = share.evict
        share.give_up(lost)
        if evict is not None:
            evict()


class BudgetShare:
    """What one request holds of a budget."""

    __slots__ = ("_lost", "_shares", "evict", "size", "tenant")

    def __init__(self, shares: TenantBudget, tenant: str, evict: Callable[[], None] | None) -> None:
        self._shares, self.tenant, self.evict = shares, tenant, evict
        self.size = 0
        self._lost: RetryLater | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.resize(0)

    def expect(self, amount: int) -> None:
        """Raise where there would be no room for so much."""
        self._shares.check(self.tenant, amount)

    def grow(self, amount: int) -> None:
        """Take so much more; raises as `Shares.check` does, and where this was ended for the sake of others."""
        if self._lost is not None:
            raise self._lost
        if not amount:
            return
        self._shares.take(self, amount)
        self.size += amount

    def resize(self, size: int) -> None:
        """Hold so much from now on; raises as `grow` does where that is more than before."""
        if size > self.size:
            self.grow(size - self.size)
        elif size < self.size:
            self._shares.give_back(self, self.size - size)
            self.size = size
            if not size:
                self.keep()

    def keep(self) -> None:
        """Do not end this request for the sake of others any more: what it asks for is being done."""
        if self.evict is not None:
            self.evict = None
            self._shares.keep(self)

    def give_up(self, error: RetryLater) -> None:
        """Hold nothing any more; to grow raises the error."""
        self._lost = error
        self.resize(0)
