"""Submits of one turn of the event loop go in one script: what a script costs by itself is then shared by all its jobs.

A lone submit waits for nobody: what is gathered leaves as soon as the loop has handled what had arrived.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from jobs.errors import JitneyError
from jobs.job import Accepted, Submission
from jobs.store import JobStore

Verdict = Accepted | JitneyError

# Larger inputs go by themselves, and not too many together: small jobs stay off the connection for large ones.
LARGE_BYTES: Final = 32 << 10
MOST_BYTES: Final = 128 << 10
MOST_JOBS: Final = 64


@dataclass(slots=True)
class _Together:
    """Jobs that go together, and who waits for what becomes of how many of them."""

    jobs: list[Submission] = field(default_factory=list)
    callers: list[asyncio.Future[list[Verdict]]] = field(default_factory=list)  # one a job
    size_bytes: int = 0


class Submits:
    """Stands before a store's `submit`."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._open: dict[tuple[str, frozenset[str]], _Together] = {}
        self._sends: set[asyncio.Task[None]] = set()

    async def submit(
        self, jobs: Sequence[Submission], waiting_gateway: str = "", *, closed: Collection[str] = ()
    ) -> list[Verdict]:
        """Do as `JobStore.submit` does."""
        if len(jobs) > 1 or len(jobs[0].input) > LARGE_BYTES:
            return await self._store.submit(jobs, waiting_gateway, closed=closed)
        how, (job,) = (waiting_gateway, frozenset(closed)), jobs
        loop = asyncio.get_running_loop()
        together = self._open.get(how)
        if together is None:
            together = self._open[how] = _Together()
            loop.call_soon(self._send, how)
        future: asyncio.Future[list[Verdict]] = loop.create_future()
        together.jobs.append(job)
        together.callers.append(future)
        together.size_bytes += len(job.input)
        if len(together.jobs) >= MOST_JOBS or together.size_bytes + LARGE_BYTES > MOST_BYTES:
            self._send(how)
        return await future

    def _send(self, how: tuple[str, frozenset[str]]) -> None:
        together = self._open.pop(how, None)
        if together is not None:
            task = asyncio.create_task(self._submit(together, *how))
            self._sends.add(task)
            task.add_done_callback(self._sends.discard)

    async def _submit(self, together: _Together, waiting_gateway: str, closed: frozenset[str]) -> None:
        try:
            verdicts = await self._store.submit(together.jobs, waiting_gateway, closed=closed)
        except BaseException as error:  # noqa: BLE001 - it belongs to those who asked
            for future in together.callers:
                if not future.done():
                    future.set_exception(error)
            return
        for future, verdict in zip(together.callers, verdicts, strict=True):
            if not future.done():
                future.set_result([verdict])
