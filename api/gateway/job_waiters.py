"""Lets many requests wait for their jobs over one subscription: no polling, no blocked connection per request.

A notice says that jobs became final; small ones ride along as they would be read, others are read from the store. A
lost notice costs time, never an answer: whoever waits is looked at again on every reconnect and every few seconds.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from jobs.contract.errors import StoreUnavailable
from jobs.contract.job import Job
from jobs.store.codec import read_notification
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.api")

RECHECK_BATCH = 500  # jobs of one read when all are looked at: others have their turn between

JobFuture = asyncio.Future[Job | None]  # None: nothing more is heard here


class JobWaiters:
    """The requests of this gateway that wait, by job id."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._waiters: dict[str, list[JobFuture]] = {}
        self._confirmed: set[str] = set()  # the ids among them that the store has, or had
        self._reads: set[asyncio.Task[None]] = set()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def expect(self, job_id: str) -> JobFuture:
        """Begin to wait; before the job is submitted, so that no notice is missed."""
        future: JobFuture = self._running_loop().create_future()
        if self._closed:
            future.set_result(None)
        else:
            self._waiters.setdefault(job_id, []).append(future)
        return future

    def confirm(self, job_id: str) -> None:
        """Note that the store has this job: should it be gone later, its end is not waited for."""
        if job_id in self._waiters:
            self._confirmed.add(job_id)

    async def wait_until_final(self, job_id: str, future: JobFuture, timeout_s: float) -> Job | None:
        """Give the job once it is final; None where the wait runs out, or this gateway is about to stop."""
        timer = self._running_loop().call_later(timeout_s, end_waits, future)
        try:
            return await future
        finally:
            timer.cancel()
            self.forget(job_id, future)

    async def wait_until_all_final(self, ends: Mapping[str, JobFuture], timeout_s: float) -> dict[str, Job | None]:
        """Give each job once all are final; None for those that are not where the wait runs out, or we are to stop.

        Whoever called `expect` forgets them.
        """
        timer = self._running_loop().call_later(timeout_s, end_all_waits, [*ends.values()])
        try:
            return {job_id: await future for job_id, future in ends.items()}
        finally:
            timer.cancel()

    def forget_all(self, ends: Iterable[tuple[str, JobFuture]]) -> None:
        """Wait for none of these any longer."""
        for job_id, future in ends:
            self.forget(job_id, future)

    def forget(self, job_id: str, future: JobFuture) -> None:
        """Wait no longer."""
        futures = self._waiters.get(job_id, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._waiters.pop(job_id, None)
            self._confirmed.discard(job_id)

    def on_notification(self, notice: bytes) -> None:
        """Hear that jobs became final."""
        try:
            ended_jobs = read_notification(notice)
        except ValueError as error:
            log.warning("a notice can not be read: %s", error)
            self._schedule_read([*self._waiters])
            return
        if unread := [
            job_id for job_id, job in ended_jobs if job_id in self._waiters and not self._resolve(job_id, job)
        ]:
            self._schedule_read(unread)

    def _resolve(self, job_id: str, job: Job | None) -> bool:
        """Give a job to all who wait for it; False where it is not known to be final."""
        if job is None or not job.is_final:
            return False
        for future in self._waiters.get(job_id, []):
            if not future.done():
                future.set_result(job)
        return True

    def _schedule_read(self, ids: list[str]) -> None:
        task = asyncio.create_task(self._read_and_resolve(ids))
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)

    async def refresh_now(self) -> None:
        """Look at every job that is waited for: notices may have been lost."""
        ids = list(self._waiters)
        for at in range(0, len(ids), RECHECK_BATCH):
            await self._read_and_resolve(ids[at : at + RECHECK_BATCH])

    async def run(self, interval_s: float) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.refresh_now()

    def close(self) -> None:
        """Send everybody home with what is known, now and from now on."""
        self._closed = True
        end_all_waits([future for futures in self._waiters.values() for future in futures])

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """Ask once: Python 3.11 makes a call to the system of each question."""
        self._loop = self._loop or asyncio.get_running_loop()
        return self._loop

    async def _read_and_resolve(self, ids: list[str]) -> None:
        there = self._confirmed.intersection(
            ids
        )  # as of now: one submitted while we read is not missed by what we read
        try:
            jobs = await self._store.read(ids)
        except StoreUnavailable as error:
            log.debug("jobs that are waited for could not be read: %s", error)  # the connection says it, once
            return
        for job_id, job in zip(ids, jobs, strict=True):
            if not self._resolve(job_id, job) and job is None and job_id in there:  # gone altogether: it has ended too
                for future in self._waiters.get(job_id, []):
                    end_waits(future)


def end_waits(future: JobFuture) -> None:
    """Let whoever waits go with what is known."""
    if not future.done():
        future.set_result(None)


def end_all_waits(futures: Iterable[JobFuture]) -> None:
    """Let all of them go."""
    for future in futures:
        end_waits(future)
