"""Lets many requests wait for their jobs over one Redis subscription, without polling or a connection per request.

A notification lists jobs that became final and includes the small ones. Larger ones are read from the store. All
awaited jobs are read again periodically and on each reconnect, so a lost notification delays a response and loses none.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from jobs.contract.errors import StoreUnavailable
from jobs.contract.job import Job
from jobs.redis_client.task_supervisor import TaskSupervisor
from jobs.store.codec import read_notification
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.api")

RECHECK_JOBS = 500  # jobs per read, so that other tasks run between two reads
MAX_LENGTHS = 100  # of waits, with a timer each

JobFuture = asyncio.Future[Job | None]  # None: the wait ended before the job did


class WaitTimeouts:
    """Ends waits of one length after it, with one timer for all of them.

    A timer for each request would cost more than all other work of waiting for it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._loop, self._timeout_s = loop, timeout_s
        self._ends: dict[JobFuture, float] = {}  # future → time of its timeout, the earliest first
        self._is_running = False

    def start(self, future: JobFuture) -> None:
        """Resolve a future with None after the length, unless `stop` is called before."""
        self._ends[future] = self._loop.time() + self._timeout_s
        if not self._is_running:
            self._is_running = True
            self._loop.call_later(self._timeout_s, self._check)

    def stop(self, future: JobFuture) -> None:
        self._ends.pop(future, None)

    def _check(self) -> None:
        """End the waits whose time is over, then run again at the next timeout."""
        now = self._loop.time()
        while self._ends:
            future, end = next(iter(self._ends.items()))
            if end > now:
                self._loop.call_at(end, self._check)
                return
            del self._ends[future]
            end_waits(future)
        self._is_running = False


class JobWaiters:
    """The waiting requests of this gateway, by job id."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._waiters: dict[str, list[JobFuture]] = {}
        self._confirmed: set[str] = set()  # awaited ids that the store is known to have accepted
        self._tasks = TaskSupervisor()
        self._closed = False
        self._timeouts: dict[float, WaitTimeouts] = {}  # by length in seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    def expect(self, job_id: str) -> JobFuture:
        """Start to wait for a job. Call it before the job is submitted, so that no notification is missed."""
        future: JobFuture = self.running_loop().create_future()
        if self._closed:
            future.set_result(None)
        else:
            self._waiters.setdefault(job_id, []).append(future)
        return future

    def confirm(self, job_id: str) -> None:
        """Note that the store has this job. If it is missing later, its waiters are resolved."""
        if job_id in self._waiters:
            self._confirmed.add(job_id)

    async def wait_until_final(self, job_id: str, future: JobFuture, timeout_s: float) -> Job | None:
        """Return the job once it is final, or None after `timeout_s` or when this gateway stops."""
        timeouts = self.timeouts(timeout_s)
        timeouts.start(future)
        try:
            return await future
        finally:
            timeouts.stop(future)
            self.forget(job_id, future)

    def timeouts(self, timeout_s: float) -> WaitTimeouts:
        """Return what ends waits after `timeout_s`."""
        timeouts = self._timeouts.get(timeout_s)
        if timeouts is None:
            if len(self._timeouts) >= MAX_LENGTHS:
                self._timeouts.clear()  # those in use go on by themselves
            timeouts = self._timeouts[timeout_s] = WaitTimeouts(self.running_loop(), timeout_s)
        return timeouts

    async def wait_until_all_final(self, ends: Mapping[str, JobFuture], timeout_s: float) -> dict[str, Job | None]:
        """Return the jobs once all are final, or after `timeout_s` with None for the others, likewise on shutdown.

        The caller must call `forget_all` afterwards.
        """
        timer = self.running_loop().call_later(timeout_s, end_all_waits, [*ends.values()])
        try:
            return {job_id: await future for job_id, future in ends.items()}
        finally:
            timer.cancel()

    async def wait_for_ends(self, ends: Sequence[JobFuture], count: int, timeout_s: float) -> list[Job]:
        """Return the jobs that are final, once `count` waits have ended, or after `timeout_s` or on shutdown.

        The caller must call `forget_all` afterwards.
        """
        loop, left = self.running_loop(), count
        enough = loop.create_future()

        def count_end(_end: JobFuture) -> None:
            nonlocal left
            left -= 1
            if left <= 0 and not enough.done():
                enough.set_result(None)

        for end in ends:
            end.add_done_callback(count_end)
        timer = loop.call_later(timeout_s, end_all_waits, ends)
        try:
            await enough
        finally:
            timer.cancel()
        return [job for end in ends if end.done() and (job := end.result()) is not None]

    def forget_all(self, ends: Iterable[tuple[str, JobFuture]]) -> None:
        for job_id, future in ends:
            self.forget(job_id, future)

    def forget(self, job_id: str, future: JobFuture) -> None:
        """Stop waiting for a job."""
        futures = self._waiters.get(job_id)
        if futures is None:
            return
        if future in futures:
            futures.remove(future)
        if not futures:
            del self._waiters[job_id]
            self._confirmed.discard(job_id)

    def on_notification(self, notification: bytes) -> None:
        """Resolve the waiters of the jobs that became final."""
        try:
            ended = read_notification(notification)
        except ValueError as error:
            log.warning("cannot read a notification: %s", error)
            self._tasks.run(self._read_and_resolve([*self._waiters]))
            return
        unread = [job_id for job_id, job in ended if job_id in self._waiters and not self._resolve(job_id, job)]
        if unread:
            self._tasks.run(self._read_and_resolve(unread))

    def _resolve(self, job_id: str, job: Job | None) -> bool:
        """Resolve all waiters of a final job; return False if the job is not known to be final."""
        if job is None or not job.is_final:
            return False
        for future in self._waiters.get(job_id, []):
            if not future.done():
                future.set_result(job)
        return True

    async def refresh_now(self) -> None:
        """Read all awaited jobs from the store, because notifications may have been lost."""
        ids = list(self._waiters)
        for start in range(0, len(ids), RECHECK_JOBS):
            await self._read_and_resolve(ids[start : start + RECHECK_JOBS])

    async def run(self, interval_s: float) -> None:
        """Read all awaited jobs periodically until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.refresh_now()

    def close(self) -> None:
        """Resolve all waiters, and each new one at once; called on shutdown."""
        self._closed = True
        end_all_waits([future for futures in self._waiters.values() for future in futures])

    def running_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, cached because Python 3.11 makes a system call for each lookup."""
        self._loop = self._loop or asyncio.get_running_loop()
        return self._loop

    async def _read_and_resolve(self, ids: list[str]) -> None:
        confirmed = self._confirmed.intersection(ids)  # before the read, which may miss jobs submitted meanwhile
        try:
            jobs = await self._store.read(ids)
        except StoreUnavailable as error:
            log.debug("cannot read the awaited jobs: %s", error)  # the connection logs the outage
            return
        for job_id, job in zip(ids, jobs, strict=True):
            if not self._resolve(job_id, job) and job is None and job_id in confirmed:  # expired, so it has ended
                for future in self._waiters.get(job_id, []):
                    end_waits(future)


def end_waits(future: JobFuture) -> None:
    """Resolve one waiter without a job."""
    if not future.done():
        future.set_result(None)


def end_all_waits(futures: Iterable[JobFuture]) -> None:
    for future in futures:
        end_waits(future)
