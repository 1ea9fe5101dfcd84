"""What every door shares: the settings, the store, the models and the waiting requests of one gateway process."""

import asyncio
import logging
import secrets
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from api import sweeping
from api.admission import admit
from api.catalogue import Catalogue
from api.drafts import Draft
from api.pace import Pace
from api.settings import GatewaySettings
from api.waiting import Waiting
from jobs import keys
from jobs.errors import QueueFull, StoreUnavailable
from jobs.ids import PATTERN
from jobs.job import Accepted, Job, Submission
from jobs.lifecycle import State
from jobs.notices import Listener
from jobs.store import JobStore

log = logging.getLogger("jitney.api")

TENANT = "default"


class Gateway:
    """One gateway process: its background loops, and what its doors do."""

    def __init__(self, settings: GatewaySettings, store: JobStore) -> None:
        self.id = secrets.token_hex(8)
        self.settings, self.store = settings, store
        self.catalogue = Catalogue(store.connection, settings.default_model)
        self.waiting = Waiting(store)
        self.pace = Pace()
        self._loops: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        """Start the loops; the models are looked at once before, so that the first request finds them."""
        with suppress(StoreUnavailable):
            await self.catalogue.refresh()
        channels = [keys.gateway_channel(self.id), keys.NEWS]
        listener = Listener(self.store.connection, channels, self._on_notice, self.waiting.look_again)
        self._start(listener.run())
        self._start(self.waiting.run(self.settings.recheck_s))
        self._start(self.catalogue.run(self.settings.models_s))
        self._start(sweeping.watch_pace(self.pace, self.store, self.settings.models_s))
        self._start(sweeping.run(self.store, self.settings.sweep_s))

    async def stop(self) -> None:
        """Stop the loops and let go of the store."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.store.connection.aclose()

    async def submit(self, draft: Draft, idempotency_key: str, wait_s: float) -> tuple[Accepted, Job]:
        """Take a job, and wait for its end if asked to; gives the job as it stands then."""
        submission = admit(
            draft,
            self.catalogue,
            tenant=TENANT,
            idempotency_key=idempotency_key,
            shards=self.store.settings.shards,
            max_deadline_ms=self.settings.max_deadline_ms,
        )
        try:
            return await self._submit(submission, wait_s)
        except QueueFull as full:
            back_in_s = self.pace.retry_after_s(submission.model, self.store.settings.max_jobs)
            full.details.setdefault("retry_after_s", back_in_s)
            raise

    async def _submit(self, submission: Submission, wait_s: float) -> tuple[Accepted, Job]:
        if not wait_s:
            (accepted,) = await self.store.submit([submission])
            job = await self.read(accepted.id) if accepted.replayed else fresh(submission, accepted)
            return accepted, job
        future = self.waiting.expect(submission.id)
        try:
            (accepted,) = await self.store.submit([submission], self.id)
        except BaseException:
            self.waiting.forget(submission.id, future)
            raise
        if accepted.replayed:
            self.waiting.forget(submission.id, future)
            return accepted, await self.wait(accepted.id, wait_s)
        self.waiting.confirm(submission.id)
        job = await self.waiting.until_final(submission.id, future, wait_s) or await self.read(submission.id)
        return accepted, job

    async def wait(self, job_id: str, wait_s: float) -> Job:
        """Read a job, waiting for its end for so long; raises Refused where it is not this tenant's."""
        future = self.waiting.expect(self._checked(job_id))
        try:
            job = self._known(job_id, await self.store.wait(job_id, self.id))
        except BaseException:
            self.waiting.forget(job_id, future)
            raise
        if job.is_final:
            self.waiting.forget(job_id, future)
            return job
        self.waiting.confirm(job_id)
        return await self.waiting.until_final(job_id, future, wait_s) or await self.read(job_id)

    async def read(self, job_id: str) -> Job:
        """Read a job as it stands; raises Refused where it is not this tenant's."""
        (job,) = await self.store.read([self._checked(job_id)])
        return self._known(job_id, job)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job; raises Refused where it can not be."""
        await self.store.cancel(self._checked(job_id), TENANT)
        return await self.read(job_id)

    def _checked(self, job_id: str) -> str:
        if not PATTERN.fullmatch(job_id):
            raise self.store.unknown(job_id[:64])
        return job_id

    def _known(self, job_id: str, job: Job | None) -> Job:
        if job is None or job.tenant != TENANT:
            raise self.store.unknown(job_id)
        return job

    def _on_notice(self, channel: str, data: bytes) -> None:
        if channel == keys.NEWS:
            self.catalogue.look_again()
        else:
            self.waiting.on_notice(data)

    def _start(self, loop: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(loop)
        task.add_done_callback(self._on_loop_end)
        self._loops.append(task)

    def _on_loop_end(self, task: asyncio.Task[Any]) -> None:
        """Stop the whole process rather than go on without one of its loops: whoever supervises it starts another."""
        if not task.cancelled():
            log.critical("a loop of the gateway ended, which none should: stopping", exc_info=task.exception())
            signal.raise_signal(signal.SIGTERM)


def fresh(submission: Submission, accepted: Accepted) -> Job:
    """Show a job that was just accepted, without reading it back."""
    return Job(
        id=accepted.id,
        state=State.QUEUED,
        model=submission.model,
        version=submission.version,
        lane=submission.lane,
        tenant=submission.tenant,
        created_us=accepted.created_us,
        attempts=0,
        metadata=submission.metadata,
    )
