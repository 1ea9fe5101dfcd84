"""Lets many requests wait for their jobs over one subscription: no polling, no blocked connection per request.

A notice says that jobs became final; small ones ride along as they would be read, others are read from the store. A
lost notice costs time, never an answer: whoever waits is looked at again on every reconnect and every few seconds.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from jobs.contract.errors import StoreUnavailable
from jobs.contract.job import Job
from jobs.store.codec import read_notice
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.api")

LOOK = 500  # jobs of one read when all are looked at: others have their turn between

Future = asyncio.Future[Job | None]  # None: nothing more is heard here


class Waiting:
    """The requests of this gateway that wait, by job id."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._waiters: dict[str, list[Future]] = {}
        self._there: set[str] = set()  # the ids among them that the store has, or had
        self._reads: set[asyncio.Task[None]] = set()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def expect(self, job_id: str) -> Future:
        """Begin to wait; before the job is submitted, so that no notice is missed."""
        future: Future = self._running_loop().create_future()
        if self._closed:
            future.set_result(None)
        else:
            self._waiters.setdefault(job_id, []).append(future)
        return future

    def confirm(self, job_id: str) -> None:
        """Note that the store has this job: should it be gone later, its end is not waited for."""
        if job_id in self._waiters:
            self._there.add(job_id)

    async def until_final(self, job_id: str, future: Future, timeout_s: float) -> Job | None:
        """Give the job once it is final; None where the wait runs out, or this gateway is about to stop."""
        timer = self._running_loop().call_later(timeout_s, send_home, future)
        try:
            return await future
        finally:
            timer.cancel()
            self.forget(job_id, future)

    async def until_all_final(self, ends: Mapping[str, Future], timeout_s: float) -> dict[str, Job | None]:
        """Give each job once all are final; None for those that are not where the wait runs out, or we are to stop.

        Whoever called `expect` forgets them.
        """
        timer = self._running_loop().call_later(timeout_s, send_all_home, [*ends.values()])
        try:
            return {job_id: await future for job_id, future in ends.items()}
        finally:
            timer.cancel()

    def forget_all(self, ends: Iterable[tuple[str, Future]]) -> None:
        """Wait for none of these any longer."""
        for job_id, future in ends:
            self.forget(job_id, future)

    def forget(self, job_id: str, future: Future) -> None:
        """Wait no longer."""
        futures = self._waiters.get(job_id, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._waiters.pop(job_id, None)
            self._there.discard(job_id)

    def on_notice(self, notice: bytes) -> None:
        """Hear that jobs became final."""
        try:
            told = read_notice(notice)
        except ValueError as error:
            log.warning("a notice can not be read: %s", error)
            self._read_later([*self._waiters])
            return
        if unread := [job_id for job_id, job in told if job_id in self._waiters and not self._end(job_id, job)]:
            self._read_later(unread)

    def _end(self, job_id: str, job: Job | None) -> bool:
        """Give a job to all who wait for it; False where it is not known to be final."""
        if job is None or not job.is_final:
            return False
        for future in self._waiters.get(job_id, []):
            if not future.done():
                future.set_result(job)
        return True

    def _read_later(self, ids: list[str]) -> None:
        task = asyncio.create_task(self._tell(ids))
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)

    async def look_again(self) -> None:
        """Look at every job that is waited for: notices may have been lost."""
        ids = list(self._waiters)
        for at in range(0, len(ids), LOOK):
            await self._tell(ids[at : at + LOOK])

    async def run(self, every_s: float) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.look_again()

    def close(self) -> None:
        """Send everybody home with what is known, now and from now on."""
        self._closed = True
        send_all_home([future for futures in self._waiters.values() for future in futures])

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """Ask once: Python 3.11 makes a call to the system of each question."""
        self._loop = self._loop or asyncio.get_running_loop()
        return self._loop

    async def _tell(self, ids: list[str]) -> None:
        there = self._there.intersection(ids)  # as of now: one submitted while we read is not missed by what we read
        try:
            jobs = await self._store.read(ids)
        except StoreUnavailable as error:
            log.debug("jobs that are waited for could not be read: %s", error)  # the connection says it, once
            return
        for job_id, job in zip(ids, jobs, strict=True):
            if not self._end(job_id, job) and job is None and job_id in there:  # gone altogether: it has ended too
                for future in self._waiters.get(job_id, []):
                    send_home(future)


def send_home(future: Future) -> None:
    """Let whoever waits go with what is known."""
    if not future.done():
        future.set_result(None)


def send_all_home(futures: Iterable[Future]) -> None:
    """Let all of them go."""
    for future in futures:
        send_home(future)
