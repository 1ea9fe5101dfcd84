"""Who is aboard: the riders of one model between their claim and their batch's departure."""

import asyncio
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from batching.batcher import Batch, Batcher, BatchLimits
from batching.collation import Arrays
from batching.memory_limits import MemoryLimits
from jobs.contract.job import ClaimedJob, Outcome
from jobs.contract.lifecycle import State
from jobs.redis_client.event_wait import wait_for_event


@dataclass(slots=True, eq=False, repr=False)  # its bytes are the caller's: not for a log
class WorkItem:
    """A claimed job on its way to a seat. Times on the monotonic clock, in seconds."""

    job: ClaimedJob
    parameters: dict[str, Any]
    claimed_at: float
    expires_at: float = float("inf")
    decode_ms: float = 0.0
    arrays: Arrays = field(default_factory=dict)
    group: Hashable = None
    is_guest: bool = False  # of a tenant that has nobody in line: rides before those who have

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
        """Say how this rider's job ended."""
        times = (self.decode_ms, batch_ms, infer_ms)
        return Outcome(self.job.id, self.job.attempt, state, body, *times, batch_size, dead, after_ms)


class CompletedItem(NamedTuple):
    """A rider and how the journey ended."""

    item: WorkItem
    outcome: Outcome


class PendingItems:
    """While a batch runs the next riders wait here, decoding or decoded: a batch's worth, or `ahead` if more."""

    def __init__(self, limits: BatchLimits, ceilings: MemoryLimits | None = None, ahead: int = 1) -> None:
        self.ceilings = ceilings or MemoryLimits(limits.max_items)
        self._batcher: Batcher[WorkItem] = Batcher(limits, lambda group: self.ceilings.of(group, time.monotonic()))
        self.max_pending = max(limits.max_items, ahead)
        self._ahead: dict[str, WorkItem] = {}  # claimed, not departed
        # By claim, not by job: after a lost lease this very worker may claim the same job again.
        self._running_items: dict[tuple[str, int], WorkItem] = {}  # departed, not written down yet
        self._seated, self._left = asyncio.Event(), asyncio.Event()
        self._closed = False

    @property
    def room(self) -> int:
        """Seats that may still be claimed for."""
        return self.max_pending - len(self._ahead)

    @property
    def is_empty(self) -> bool:
        return not self._ahead and not self._running_items

    def held(self) -> list[ClaimedJob]:
        """List every job under our lease."""
        return [item.job for item in (*self._ahead.values(), *self._running_items.values())]

    def is_running(self, item: WorkItem) -> bool:
        """Tell whether the result of a rider who has departed is still wanted."""
        return item.job.claim in self._running_items

    def overdue(self, now: float) -> list[WorkItem]:
        """Take those off the board whose deadline has passed; their jobs end without a run."""
        late = [item for item in self._ahead.values() if item.expires_at <= now]
        for item in late:
            self._running_items[item.job.claim] = self._ahead.pop(item.job.id)  # until their end is written down
        if late:
            self._batcher.remove(late)
            self._left.set()
        return late

    def cancel(self, job_id: str) -> None:
        """Let go of a job that was canceled or has expired."""
        self.discard([job for job in self.held() if job.id == job_id])

    def add(self, item: WorkItem) -> None:
        """Take in a rider who is not prepared yet."""
        if old := self._ahead.get(item.job.id):
            self.discard([old.job])
        self._ahead[item.job.id] = item

    def mark_ready(self, item: WorkItem) -> None:
        """Let a prepared rider wait for the next batch; one that was lost meanwhile is ignored."""
        if self._ahead.get(item.job.id) is item:
            self._batcher.add(item, time.monotonic(), item.group, first=item.is_guest)
            self._seated.set()

    def discard(self, jobs: Sequence[ClaimedJob]) -> None:
        """Let go of claims: their end is written down, or their lease was lost."""
        ahead = [item for job in jobs if (item := self._ahead.get(job.id)) and item.job.attempt == job.attempt]
        for item in ahead:
            del self._ahead[item.job.id]
        if ahead:
            self._batcher.remove(ahead)
        for job in jobs:
            self._running_items.pop(job.claim, None)
        self._left.set()

    def close(self) -> None:
        """Take nobody in any more; who is aboard waits for no company."""
        self._closed = True
        self._batcher.limits = replace(self._batcher.limits, max_wait_s=0)
        self._left.set()
        self._seated.set()

    def next_batch(self) -> Batch[WorkItem] | None:
        """Close a batch now, with whoever is seated."""
        batch = self._batcher.take(time.monotonic())
        if batch is not None:
            for item in batch.items:
                self._running_items[item.job.claim] = self._ahead.pop(item.job.id)
            self._left.set()
        return batch

    async def wait_until_due(self) -> None:
        """Wait until a batch may depart."""
        while not self._batcher.is_due(now := time.monotonic()):
            self._seated.clear()
            deadline = self._batcher.next_deadline()
            await wait_for_event(self._seated, None if deadline is None else max(0.0, deadline - now))

    async def wait_for_room(self) -> None:
        """Wait until somebody may be claimed, or nobody ever again."""
        while self.room <= 0 and not self._closed:
            self._left.clear()
            await self._left.wait()

    async def wait_until_empty(self) -> None:
        """Wait until nobody is aboard."""
        while not self.is_empty:
            self._left.clear()
            await self._left.wait()
