"""Combines submits into one script call, to share its fixed cost.

A lone submit is not delayed: it is sent as soon as the loop has handled the requests that had arrived. While a group is
being submitted, new jobs gather in the next one, for MAX_HOLD_S at most.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from jobs.contract.errors import JitneyError
from jobs.contract.job import Accepted, Submission
from jobs.redis_client.task_supervisor import TaskSupervisor
from jobs.store.codec import OWN_KEY_BYTES
from jobs.store.job_store import JobStore

SubmitResult = Accepted | JitneyError
OnResult = Callable[[SubmitResult | BaseException], None]
GroupKey = tuple[str, frozenset[str], bool]  # the waiting gateway, the closed lanes, whether the inputs are large

# Large inputs have groups of their own, and groups are bounded, so that small jobs do not wait behind large ones.
MAX_GROUP_BYTES: Final = 96 << 10  # a group of this size is closed
MAX_LARGE_GROUP_BYTES: Final = 4 << 20  # of inputs, which travel beside the script
MAX_GROUP_JOBS: Final = 64
MAX_HOLD_S: Final = 0.01  # that a group waits for the one before it, which may hang
_NONE: Final[frozenset[str]] = frozenset()


@dataclass(slots=True, eq=False)
class PendingSubmits:
    """Jobs that are submitted together, and a function for the result of each."""

    jobs: list[Submission] = field(default_factory=list)
    on_results: list[OnResult] = field(default_factory=list)
    size_bytes: int = 0


class SubmitCoalescer:
    """Groups single jobs and submits each group with one call of the store's `submit`."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._open: dict[GroupKey, PendingSubmits] = {}
        self._sending = set[GroupKey]()
        self._tasks = TaskSupervisor()

    def submit(
        self, job: Submission, on_result: OnResult, waiting_gateway: str = "", *, closed: Collection[str] = ()
    ) -> None:
        """Submit one job; `on_result` gets its result of `JobStore.submit`, or the exception that this raised."""
        size_bytes = len(job.input)
        is_large = size_bytes >= OWN_KEY_BYTES
        group_key = (waiting_gateway, frozenset(closed) if closed else _NONE, is_large)
        pending = self._open.get(group_key)
        if pending is None:
            pending = self._open[group_key] = PendingSubmits()
            if group_key in self._sending:
                asyncio.get_running_loop().call_later(MAX_HOLD_S, self._send_held, pending, group_key)
            else:
                self._sending.add(group_key)
                self._tasks.run(self._send_groups(group_key))
        pending.jobs.append(job)
        pending.on_results.append(on_result)
        pending.size_bytes += size_bytes
        most_bytes = MAX_LARGE_GROUP_BYTES if is_large else MAX_GROUP_BYTES
        if len(pending.jobs) >= MAX_GROUP_JOBS or pending.size_bytes >= most_bytes:
            del self._open[group_key]  # the next job begins another group
            self._tasks.run(self._submit(pending, group_key))

    async def _send_groups(self, group_key: GroupKey) -> None:
        """Submit one group after another, until no job is left. Runs after the events that had arrived."""
        try:
            while (pending := self._open.pop(group_key, None)) is not None:
                await self._submit(pending, group_key)
        finally:
            self._sending.discard(group_key)

    def _send_held(self, pending: PendingSubmits, group_key: GroupKey) -> None:
        """Submit a group that has waited long enough for the one before it."""
        if self._open.get(group_key) is pending:
            del self._open[group_key]
            self._tasks.run(self._submit(pending, group_key))

    async def _submit(self, pending: PendingSubmits, group_key: GroupKey) -> None:
        waiting_gateway, closed, _ = group_key
        try:
            results = await self._store.submit(pending.jobs, waiting_gateway, closed=closed)
        except BaseException as error:
            for on_result in pending.on_results:
                on_result(error)
            if not isinstance(error, Exception):  # a cancellation
                raise
            return
        for on_result, result in zip(pending.on_results, results, strict=True):
            on_result(result)
