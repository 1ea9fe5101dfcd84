"""Groups pending items into batches: one group a batch, limited by number, cost and age. Time is an argument.

Rules, in order:
1. A batch holds items of one group only. The caller defines groups, usually by input shape and model version.
2. The group whose first item has waited longest goes first, so no group starves.
3. Work-conserving: with `max_wait_s = 0` a batch is due as soon as one item waits. Otherwise a batch is due when it
   is full or when its oldest item has waited `max_wait_s`.
4. A batch holds at most `max_items` items, or `cap_of(group)` if lower, and at most `max_cost` cost. An item that
   costs more than `max_cost` runs alone.
5. Each row of an item counts. If a batch has room for a part of the rows, the item is cut there.
6. With a `run_overhead` the items of a group differ in length, their cost, and are padded: a batch holds its oldest
   item and its neighbours in length (length_grouping.py).
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

from batching.length_grouping import choose_neighbours

T = TypeVar("T")
Reason = Literal["full", "aged"]
Cut = Callable[[T, int], tuple[T, T]]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of one batch. The caller chooses the unit of cost; times in seconds.

    `run_overhead`: the fixed cost of a run, where the items of a group are padded to the longest one; None: they have
    one shape.
    """

    max_items: int = 32
    max_cost: float = float("inf")
    max_wait_s: float = 0.0
    run_overhead: float | None = None

    def __post_init__(self) -> None:
        if self.max_items < 1 or self.max_cost <= 0 or self.max_wait_s < 0 or (self.run_overhead or 0) < 0:
            message = (
                f"max_items must be at least 1, max_cost positive, max_wait_s and run_overhead not negative: {self}"
            )
            raise ValueError(message)


class Batch(NamedTuple, Generic[T]):
    """Items that run together, oldest first, and the limit that closed the batch."""

    group: Hashable
    items: list[T]
    reason: Reason


class Batcher(Generic[T]):
    """Pending items by group, in order of arrival."""

    def __init__(
        self, limits: BatchLimits, cap_of: Callable[[Hashable], int] | None = None, cut: Cut[T] | None = None
    ) -> None:
        """Create a batcher. `cap_of(group)` may lower `max_items` for one group.

        `cut(item, rows)` returns two items in place of one: its first `rows` rows, and the others.
        """
        self.limits = limits
        self._cap_of, self._cut = cap_of, cut
        # Item, cost of a row, since, rows; oldest first.
        self._groups: dict[Hashable, deque[tuple[T, float, float, int]]] = {}
        self._rows: dict[Hashable, int] = {}  # by group

    def __len__(self) -> int:
        return sum(self._rows.values())

    def add(self, item: T, now: float, group: Hashable = None, cost: float = 1.0, rows: int = 1) -> None:
        """Add an item at the end of its group. `now` must never decrease."""
        self.extend([item], now, group, cost, rows)

    def extend(self, items: Iterable[T], now: float, group: Hashable = None, cost: float = 1.0, rows: int = 1) -> None:
        """Add items of `rows` rows each, and of this cost a row, at the end of their group. `now` must never decrease.

        With a `run_overhead` an item has one row. An item of several rows needs `cut`.
        """
        added = [(item, cost, now, rows) for item in items]
        self._groups.setdefault(group, deque()).extend(added)
        self._rows[group] = self._rows.get(group, 0) + len(added) * rows

    def take(self, now: float) -> Batch[T] | None:
        """Remove and return the batch that is due, or None."""
        for group in sorted(self._groups, key=self._since) if len(self._groups) > 1 else self._groups:
            if reason := self._due(group, now):
                return self._close(group, reason)
        return None

    def is_due(self, now: float) -> bool:
        """Return whether `take` would return a batch."""
        return any(self._due(group, now) for group in self._groups)

    def next_deadline(self) -> float | None:
        """Return the latest time for the next call of `take`, or None if no item waits."""
        return min(map(self._since, self._groups)) + self.limits.max_wait_s if self._groups else None

    def remove(self, items: Iterable[T]) -> None:
        """Remove items, compared by identity."""
        identities = set(map(id, items))
        for group in list(self._groups):
            self._keep(group, deque(each for each in self._groups[group] if id(each[0]) not in identities))

    def _keep(self, group: Hashable, kept: "deque[tuple[T, float, float, int]]") -> None:
        """Leave these items of a group waiting."""
        del self._groups[group], self._rows[group]
        if kept:
            self._groups[group], self._rows[group] = kept, sum([rows for _, _, _, rows in kept])

    def _since(self, group: Hashable) -> float:
        return self._groups[group][0][2]

    def _cap(self, group: Hashable) -> int:
        return min(self.limits.max_items, self._cap_of(group)) if self._cap_of else self.limits.max_items

    def _due(self, group: Hashable, now: float) -> Reason | None:
        waiting, limits = self._groups[group], self.limits
        has_limit = limits.max_cost < float("inf")
        is_costly = has_limit and sum(cost * rows for _, cost, _, rows in waiting) >= limits.max_cost
        if is_costly or self._rows[group] >= self._cap(group):
            return "full"
        return "aged" if waiting[0][2] + limits.max_wait_s <= now else None

    def _close(self, group: Hashable, reason: Reason) -> Batch[T]:
        waiting, cap, cost_left = self._groups[group], self._cap(group), self.limits.max_cost
        items: list[T] = []
        if self.limits.run_overhead is not None and len(waiting) > 1:
            return Batch(group, self._take_neighbours(group, cap, self.limits.run_overhead), reason)
        free = cap
        while waiting and free:
            item, cost, since, rows = waiting.popleft()
            if rows > free or rows * cost > cost_left:
                fitting = min(free, int(cost_left / cost) if rows * cost > cost_left else rows)
                if fitting <= 0 and items:
                    waiting.appendleft((item, cost, since, rows))
                    break
                if (fitting := max(1, fitting)) < rows and self._cut is not None:
                    item, rest = self._cut(item, fitting)
                    waiting.appendleft((rest, cost, since, rows - fitting))
                    rows = fitting
            items.append(item)
            free, cost_left = free - rows, cost_left - rows * cost
        self._rows[group] -= cap - free
        if not waiting:
            del self._groups[group], self._rows[group]
        return Batch(group, items, reason)

    def _take_neighbours(self, group: Hashable, cap: int, run_overhead: float) -> list[T]:
        waiting = self._groups[group]
        costs = [cost for _, cost, _, _ in waiting]
        chosen = choose_neighbours(costs, cap, self.limits.max_cost, run_overhead)
        items = [waiting[at][0] for at in chosen]
        taken = set(chosen)
        self._keep(group, deque(each for at, each in enumerate(waiting) if at not in taken))
        return items
