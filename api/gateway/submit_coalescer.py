"""Submits of one turn of the event loop go in one script: what a script costs by itself is then shared by all its jobs.

A lone submit waits for nobody: what is gathered leaves as soon as the loop has handled what had arrived.
"""

import asyncio
from collections.abc import Collection
from typing import Final

from jobs.contract.errors import JitneyError
from jobs.contract.job import Accepted, Submission
from jobs.store.job_store import JobStore

Verdict = Accepted | JitneyError
Answer = asyncio.Future[Verdict]
How = tuple[str, frozenset[str]]  # the gateway that waits, and the lanes that are closed

# Larger inputs go by themselves, and not too many together: small jobs stay off the connection for large ones.
LARGE_BYTES: Final = 32 << 10
MOST_BYTES: Final = 128 << 10
MOST_JOBS: Final = 64
_NONE: Final[frozenset[str]] = frozenset()


class _Together:
    """Jobs that go together, and who waits for what becomes of each."""

    __slots__ = ("answers", "jobs", "size_bytes")

    def __init__(self) -> None:
        self.jobs: list[Submission] = []
        self.answers: list[Answer] = []
        self.size_bytes = 0


class Submits:
    """Stands before a store's `submit`, for jobs that come one by one."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._open: dict[How, _Together] = {}
        self._sends: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # asked once, see Waiting

    def submit(self, job: Submission, waiting_gateway: str = "", *, closed: Collection[str] = ()) -> Answer:
        """Do as `JobStore.submit` does."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        how = (waiting_gateway, frozenset(closed) if closed else _NONE)
        size_bytes = len(job.input)
        together = self._open.get(how) if size_bytes <= LARGE_BYTES else None
        if together is None:
            together = self._begin(how, stays_open=size_bytes <= LARGE_BYTES)
        together.jobs.append(job)
        together.answers.append(answer)
        together.size_bytes += size_bytes
        is_full = len(together.jobs) >= MOST_JOBS or together.size_bytes + LARGE_BYTES > MOST_BYTES
        if is_full and self._open.get(how) is together:
            del self._open[how]  # the next begins another
        return answer

    def _begin(self, how: How, *, stays_open: bool) -> _Together:
        together = _Together()
        if stays_open:
            self._open[how] = together
        task = asyncio.create_task(self._submit(together, how))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)
        return together

    async def _submit(self, together: _Together, how: How) -> None:
        """Begins once the loop has handled what had arrived: until then it fills."""
        if self._open.get(how) is together:
            del self._open[how]
        waiting_gateway, closed = how
        try:
            verdicts = await self._store.submit(together.jobs, waiting_gateway, closed=closed)
        except BaseException as error:  # noqa: BLE001 - it belongs to those who asked
            for answer in together.answers:
                if not answer.done():
                    answer.set_exception(error)
            return
        for answer, verdict in zip(together.answers, verdicts, strict=True):
            if not answer.done():
                answer.set_result(verdict)
