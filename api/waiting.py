"""Lets many requests wait for their jobs over one subscription: no polling, no blocked connection per request.

A notice only says that a job became final; the answer is read from the store. A lost notice costs time, never an
answer: whoever waits is looked at again on every reconnect and every few seconds.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from jobs.errors import StoreUnavailable
from jobs.job import Job
from jobs.store import JobStore

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

    def expect(self, job_id: str) -> Future:
        """Begin to wait; before the job is submitted, so that no notice is missed."""
        future: Future = asyncio.get_running_loop().create_future()
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
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            return None
        finally:
            self.forget(job_id, future)

    async def until_all_final(self, ends: Mapping[str, Future], timeout_s: float) -> dict[str, Job | None]:
        """Give each job once all are final; None for those that are not where the wait runs out, or we are to stop.

        Whoever called `expect` forgets them.
        """
        await asyncio.wait(ends.values(), timeout=timeout_s)
        return {job_id: future.result() if future.done() else None for job_id, future in ends.items()}

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

    def on_notice(self, ids: bytes) -> None:
        """Hear that jobs became final."""
        known = [job_id for job_id in ids.decode().split(" ") if job_id in self._waiters]
        if known:
            task = asyncio.create_task(self._tell(known))
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
        for future in [future for futures in self._waiters.values() for future in futures]:
            send_home(future)

    async def _tell(self, ids: list[str]) -> None:
        there = self._there.intersection(ids)  # as of now: one submitted while we read is not missed by what we read
        try:
            jobs = await self._store.read(ids)
        except StoreUnavailable as error:
            log.warning("jobs that are waited for could not be read: %s", error)
            return
        for job_id, job in zip(ids, jobs, strict=True):
            if job.is_final if job else job_id in there:  # a job that is gone altogether has ended too
                for future in self._waiters.get(job_id, []):
                    if not future.done():
                        future.set_result(job)


def send_home(future: Future) -> None:
    """Let whoever waits go with what is known."""
    if not future.done():
        future.set_result(None)
