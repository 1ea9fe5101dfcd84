"""Pending items: claimed jobs of one model version that wait to be batched, or run."""

import asyncio
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

from batching.batcher import Batch, Batcher, BatchLimits
from batching.collation import Arrays
from batching.memory_limits import MemoryLimits
from jobs.contract.job import ClaimedJob, Outcome
from jobs.contract.lifecycle import State
from jobs.redis_client.event_wait import wait_for_event
from worker.execution.row_joiner import RowJoiner


@dataclass(slots=True, eq=False, repr=False)  # inputs are the caller's data: keep them out of logs
class WorkItem:
    """A claimed job, or rows of a job of several rows, which has a joiner. Times on the monotonic clock, in seconds.

    `row`: the index of its first row, from 0; None for all rows together, or without rows. `size`: how many rows or
    slots it has. `is_stacked`: its arrays have the rows as their first dimension; False: it is one row, without it.
    `singles`: the items of its rows, which take its place once it is preprocessed, because they cannot stay together.
    `cost`: the share of each row of `max_batch_cost`.
    """

    job: ClaimedJob
    parameters: dict[str, Any]
    claimed_at: float
    expires_at: float = float("inf")
    decode_ms: float = 0.0
    arrays: Arrays = field(default_factory=dict)
    group: Hashable = None
    cost: float = 1.0
    row: int | None = None
    joiner: RowJoiner | None = None
    size: int = 1
    is_stacked: bool = False
    singles: Sequence["WorkItem"] = ()
    key: str = field(init=False)  # its name in its worker: the job's id, and of later rows the attempt and the row

    def __post_init__(self) -> None:
        self.key = f"{self.job.id} {self.job.attempt} {self.row}" if self.row else self.job.id

    def end(self) -> bool:
        """Record that the item has an outcome; returns False if its job already had one, through another row."""
        return self.joiner is None or self.joiner.end()

    def cut(self, rows: int) -> tuple["WorkItem", "WorkItem"]:
        """Return two items with its first `rows` rows, and with the others. Only if its arrays are stacked."""
        return self._part(0, rows), self._part(rows, self.size)

    def _part(self, first: int, end: int) -> "WorkItem":
        arrays = {name: array[first:end] for name, array in self.arrays.items()}
        return replace(self, row=(self.row or 0) + first, size=end - first, arrays=arrays)

    def whole(self, decode_ms: float) -> "WorkItem":
        """Return the item as that of all rows of its job, this one itself if it has the first row."""
        if self.row:
            return replace(self, row=None, decode_ms=decode_ms)
        self.row, self.decode_ms = None, decode_ms
        return self

    def outcome(
        self,
        state: State,
        body: bytes,
        batch_ms: float = 0.0,
        infer_ms: float = 0.0,
        batch_size: int = 0,
        *,
        dead: bool = False,
        after_ms: int = 0,
    ) -> Outcome:
        """Return the outcome of this item's job."""
        job = self.job
        return Outcome(job.id, job.attempt, state, body, self.decode_ms, batch_ms, infer_ms, batch_size, dead, after_ms)


_GROUP: Final = attrgetter("group")
_COST_AND_SIZE: Final = attrgetter("cost", "size")
SIZE: Final = attrgetter("size")


class CompletedItem(NamedTuple):
    """An item and its outcome."""

    item: WorkItem
    outcome: Outcome


class PendingItems:
    """Items that are being preprocessed, ready, or running. Holds one batch, or `ahead` items if that is more.

    A claim or a handoff may bring a job with more rows than there were free slots.
    """

    def __init__(self, limits: BatchLimits, ceilings: MemoryLimits | None = None, ahead: int = 1) -> None:
        self.ceilings = ceilings or MemoryLimits(limits.max_items)
        self._batcher: Batcher[WorkItem] = Batcher(
            limits, lambda group: self.ceilings.of(group, time.monotonic()), self._cut
        )
        self.max_pending = max(limits.max_items, ahead)
        self._ahead: dict[str, WorkItem] = {}  # claimed, not in a batch; by key
        self._slots_ahead = 0
        # By key and attempt: after a lost lease this worker may claim the same job again.
        self._running_items: dict[tuple[str, int], WorkItem] = {}  # in a batch, outcome not written yet
        self._item_ready, self._item_left = asyncio.Event(), asyncio.Event()
        self._closed = False

    @property
    def room(self) -> int:
        """Number of free slots that jobs may be claimed for."""
        return self.max_pending - self._slots_ahead

    @property
    def is_empty(self) -> bool:
        return not self._ahead and not self._running_items

    def held(self) -> list[ClaimedJob]:
        """Return every job leased by this worker."""
        return [item.job for item in (*self._ahead.values(), *self._running_items.values()) if not item.row]

    def is_running(self, item: WorkItem) -> bool:
        """Return whether the result of an item in a batch is still needed."""
        return (item.key, item.job.attempt) in self._running_items

    def overdue(self, now: float) -> list[WorkItem]:
        """Return the waiting items whose deadline has passed; their jobs end without a run."""
        expired = [item for item in self._ahead.values() if item.expires_at <= now]
        self._withdraw(expired)
        return expired

    def withdraw(self, job: ClaimedJob) -> None:
        """Keep the waiting rows of a job out of the next batches: the job has an outcome, which is to be written."""
        waiting = [item for key in self._keys_of(job) if (item := self._ahead.get(key))]
        self._withdraw([item for item in waiting if item.job.attempt == job.attempt])

    def _withdraw(self, items: Sequence[WorkItem]) -> None:
        for item in items:  # they are held until their outcome is written
            key = item.key
            self._running_items[key, item.job.attempt] = self._ahead.pop(key)
            self._slots_ahead -= item.size
        if items:
            self._batcher.remove(items)
            self._item_left.set()

    def cancel(self, job_id: str) -> None:
        """Discard a job that was canceled or has expired."""
        self.discard([job for job in self.held() if job.id == job_id])

    def add(self, *items: WorkItem) -> None:
        """Add items that are not preprocessed yet."""
        ahead = self._ahead
        for item in items:
            key = item.key
            if old := ahead.get(key):
                self.discard([old.job])
            ahead[key] = item
            self._slots_ahead += item.size
            if item.joiner is not None:
                item.joiner.keys.append(key)

    def mark_ready(self, *items: WorkItem) -> None:
        """Make preprocessed items available for the next batch; discarded items are ignored."""
        ahead, now = self._ahead, time.monotonic()
        waiting = [item for item in items if ahead.get(item.key) is item]
        if any(item.singles for item in waiting):
            waiting = [each for item in waiting for each in self._separate(item)]
        for group, alike in groupby(waiting, _GROUP):
            for (cost, size), equal in groupby(alike, _COST_AND_SIZE):
                self._batcher.extend(equal, now, group, cost, size)
            self._item_ready.set()

    def _separate(self, item: WorkItem) -> Sequence[WorkItem]:
        """Return the items that take the place of an item."""
        if not item.singles:
            return (item,)
        if item.joiner is not None:
            item.joiner.keys = [row.key for row in item.singles]
        self._ahead.update({row.key: row for row in item.singles})
        return item.singles

    def _cut(self, item: WorkItem, rows: int) -> tuple[WorkItem, WorkItem]:
        """Put two items in the place of a waiting one, of which a batch takes the first `rows` rows."""
        first, rest = item.cut(rows)
        self._ahead[first.key], self._ahead[rest.key] = first, rest
        if rest.joiner is not None:
            rest.joiner.keys.append(rest.key)
        return first, rest

    def _keys_of(self, job: ClaimedJob) -> Sequence[str]:
        """Return the keys of a job's items. Its first row is held as long as any of them."""
        first = self._running_items.get(job.claim) or self._ahead.get(job.id)
        return first.joiner.keys if first is not None and first.joiner is not None else (job.id,)

    def discard(self, jobs: Sequence[ClaimedJob]) -> None:
        """Remove claims whose outcome is written or whose lease is lost."""
        ahead, running = self._ahead, self._running_items
        waiting: list[WorkItem] = []
        for job in jobs:
            for key in self._keys_of(job) if job.rows else (job.id,):
                if (item := ahead.get(key)) and item.job.attempt == job.attempt:
                    waiting.append(item)
                    self._slots_ahead -= item.size
                    del ahead[key]
                running.pop((key, job.attempt), None)
        if waiting:
            self._batcher.remove(waiting)
        self._item_left.set()

    def close(self) -> None:
        """Stop waiting for full batches and unblock `wait_for_room`; called when claiming stops."""
        self._closed = True
        self._batcher.limits = replace(self._batcher.limits, max_wait_s=0)
        self._item_left.set()
        self._item_ready.set()

    def next_batch(self) -> Batch[WorkItem] | None:
        """Remove and return the batch that is due, or None."""
        batch = self._batcher.take(time.monotonic())
        if batch is not None:
            ahead, running = self._ahead, self._running_items
            for item in batch.items:
                key = item.key
                running[key, item.job.attempt] = item
                del ahead[key]
            self._slots_ahead -= sum(map(SIZE, batch.items))
            self._item_left.set()
        return batch

    async def wait_until_due(self) -> None:
        """Wait until a batch is due."""
        while not self._batcher.is_due(now := time.monotonic()):
            self._item_ready.clear()
            deadline = self._batcher.next_deadline()
            await wait_for_event(self._item_ready, None if deadline is None else max(0.0, deadline - now))

    async def wait_for_room(self) -> None:
        """Wait until there is a free slot, or until closed."""
        while self.room <= 0 and not self._closed:
            self._item_left.clear()
            await self._item_left.wait()

    async def wait_until_empty(self) -> None:
        """Wait until no item is pending or running."""
        while not self.is_empty:
            self._item_left.clear()
            await self._item_left.wait()
