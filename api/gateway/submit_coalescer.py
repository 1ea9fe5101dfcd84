"""Submits of one turn of the event loop go in one script: what a script costs by itself is then shared by all its jobs.

A lone submit waits for nobody: what is gathered leaves as soon as the loop has handled what had arrived.
"""

import asyncio
from collections.abc import Collection
from typing import Final

from jobs.contract.errors import JitneyError
from jobs.contract.job import Accepted, Submission
from jobs.store.job_store import JobStore

SubmitResult = Accepted | JitneyError
SubmitFuture = asyncio.Future[SubmitResult]
GroupKey = tuple[str, frozenset[str]]  # the gateway that waits, and the lanes that are closed

# Larger inputs go by themselves, and not too many together: small jobs stay off the connection for large ones.
LARGE_BYTES: Final = 32 << 10
MAX_GROUP_BYTES: Final = 128 << 10
MAX_GROUP_JOBS: Final = 64
_NONE: Final[frozenset[str]] = frozenset()


class PendingSubmits:
    """Jobs that go together, and who waits for what becomes of each."""

    __slots__ = ("answers", "jobs", "size_bytes")

    def __init__(self) -> None:
        self.jobs: list[Submission] = []
        self.answers: list[SubmitFuture] = []
        self.size_bytes = 0


class SubmitCoalescer:
    """Stands before a store's `submit`, for jobs that come one by one."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._open: dict[GroupKey, PendingSubmits] = {}
        self._sends: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # asked once, see Waiting

    def submit(self, job: Submission, waiting_gateway: str = "", *, closed: Collection[str] = ()) -> SubmitFuture:
        """Do as `JobStore.submit` does."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        answer: SubmitFuture = loop.create_future()
        group_key = (waiting_gateway, frozenset(closed) if closed else _NONE)
        size_bytes = len(job.input)
        pending = self._open.get(group_key) if size_bytes <= LARGE_BYTES else None
        if pending is None:
            pending = self._begin(group_key, stays_open=size_bytes <= LARGE_BYTES)
        pending.jobs.append(job)
        pending.answers.append(answer)
        pending.size_bytes += size_bytes
        is_full = len(pending.jobs) >= MAX_GROUP_JOBS or pending.size_bytes + LARGE_BYTES > MAX_GROUP_BYTES
        if is_full and self._open.get(group_key) is pending:
            del self._open[group_key]  # the next begins another
        return answer

    def _begin(self, group_key: GroupKey, *, stays_open: bool) -> PendingSubmits:
        pending = PendingSubmits()
        if stays_open:
            self._open[group_key] = pending
        task = asyncio.create_task(self._submit(pending, group_key))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)
        return pending

    async def _submit(self, pending: PendingSubmits, group_key: GroupKey) -> None:
        """Begins once the loop has handled what had arrived: until then it fills."""
        if self._open.get(group_key) is pending:
            del self._open[group_key]
        waiting_gateway, closed = group_key
        try:
            verdicts = await self._store.submit(pending.jobs, waiting_gateway, closed=closed)
        except BaseException as error:  # noqa: BLE001 - it belongs to those who asked
            for answer in pending.answers:
                if not answer.done():
                    answer.set_exception(error)
            return
        for answer, verdict in zip(pending.answers, verdicts, strict=True):
            if not answer.done():
                answer.set_result(verdict)
