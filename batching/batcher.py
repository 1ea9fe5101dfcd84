"""The batching decision: items come in, batches go out, and time is an argument.

Rules, in order:
1. Only items of one group ride together (a group is whatever the caller makes of shape and version).
2. The group whose first item waits longest goes first, so no group starves. An item let in first takes the head's place
   and its time.
3. Work-conserving: with `max_wait_s = 0` a batch leaves whenever it is asked for and anything waits. With more, a batch
   leaves when it is full or when its oldest item has waited that long.
4. A batch holds at most `max_items` items, fewer where `cap_of` its group says so, and `max_cost` cost. An item dearer
   than the cap travels alone, not never.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

T = TypeVar("T")
Reason = Literal["full", "aged"]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Caps of one batch. Cost is in the caller's unit; seconds on the caller's clock."""

    max_items: int = 32
    max_cost: float = float("inf")
    max_wait_s: float = 0.0

    def __post_init__(self) -> None:
        if self.max_items < 1 or self.max_cost <= 0 or self.max_wait_s < 0:
            message = f"a batch takes at least one item, of some cost, and waits no negative time: {self}"
            raise ValueError(message)


class _WaitingItem(NamedTuple, Generic[T]):
    item: T
    cost: float
    since: float


class Batch(NamedTuple, Generic[T]):
    """Items that run together, oldest first, and what closed the batch (which tells which limit to turn)."""

    group: Hashable
    items: list[T]
    reason: Reason


class Batcher(Generic[T]):
    """Waiting items by group, in order of arrival."""

    def __init__(self, limits: BatchLimits, cap_of: Callable[[Hashable], int] | None = None) -> None:
        """`cap_of`: the most items of a group that ride together, where that is fewer than the limits allow."""
        self.limits = limits
        self._cap_of = cap_of
        self._groups: dict[Hashable, deque[_WaitingItem[T]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, item: T, now: float, group: Hashable = None, cost: float = 1.0, *, first: bool = False) -> None:
        """Take an item in: behind its group, or before it. `now` never runs backwards."""
        waiting = self._groups.setdefault(group, deque())
        if first:
            waiting.appendleft(_WaitingItem(item, cost, waiting[0].since if waiting else now))
        else:
            waiting.append(_WaitingItem(item, cost, now))

    def take(self, now: float) -> Batch[T] | None:
        """Close and hand out the batch that is due; None where nothing is."""
        for group in sorted(self._groups, key=lambda group: self._groups[group][0].since):
            if reason := self._due(group, now):
                return self._close(group, reason)
        return None

    def is_due(self, now: float) -> bool:
        """Tell whether `take` would hand out a batch."""
        return any(self._due(group, now) for group in self._groups)

    def next_deadline(self) -> float | None:
        """Tell when `take` should be asked again at the latest; None where nothing waits."""
        oldest = [waiting[0].since for waiting in self._groups.values()]
        return min(oldest) + self.limits.max_wait_s if oldest else None

    def remove(self, gone: Iterable[T]) -> None:
        """Forget items that no longer want to ride."""
        identities = set(map(id, gone))
        for group in list(self._groups):
            kept = deque(w for w in self._groups.pop(group) if id(w.item) not in identities)
            if kept:
                self._groups[group] = kept

    def _cap(self, group: Hashable) -> int:
        return min(self.limits.max_items, self._cap_of(group)) if self._cap_of else self.limits.max_items

    def _due(self, group: Hashable, now: float) -> Reason | None:
        waiting, limits = self._groups[group], self.limits
        dear = limits.max_cost < float("inf") and sum(w.cost for w in waiting) >= limits.max_cost
        if dear or len(waiting) >= self._cap(group):
            return "full"
        return "aged" if waiting[0].since + limits.max_wait_s <= now else None

    def _close(self, group: Hashable, reason: Reason) -> Batch[T]:
        waiting, cost, cap = self._groups[group], 0.0, self._cap(group)
        items: list[T] = []
        while waiting and len(items) < cap:
            cost += waiting[0].cost
            if items and cost > self.limits.max_cost:
                break
            items.append(waiting.popleft().item)
        if not waiting:
            del self._groups[group]
        return Batch(group, items, reason)
