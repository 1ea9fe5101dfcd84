"""What every door shares: the settings, the store, the models and the waiting requests of one gateway process."""

import asyncio
import logging
import secrets
import signal
from collections.abc import Coroutine
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple

from api import sweeping
from api.admission import admit
from api.bodies import Bodies, Body
from api.catalogue import Catalogue
from api.drafts import Draft
from api.pace import Pace
from api.settings import GatewaySettings
from api.waiting import Future, Waiting, send_home
from api.watermark import Watermark
from jobs import keys
from jobs.errors import QueueFull, Refused, StoreUnavailable
from jobs.ids import PATTERN
from jobs.job import Accepted, Job, Submission
from jobs.lifecycle import State
from jobs.notices import Listener
from jobs.store import JobStore

log = logging.getLogger("jitney.api")

TENANT = "default"


class Taken(NamedTuple):
    """A job that was taken just now, and how its end is heard of; None where nobody waits, or its key is known."""

    accepted: Accepted
    job: Job
    end: Future | None


class Gateway:
    """One gateway process: its background loops, and what its doors do."""

    def __init__(self, settings: GatewaySettings, store: JobStore) -> None:
        self.id = secrets.token_hex(8)
        self.settings, self.store = settings, store
        self.catalogue = Catalogue(store.connection, settings.default_model)
        self.waiting = Waiting(store)
        self.pace, self.watermark = Pace(), Watermark(settings.memory_watermark)
        self.bodies = Bodies(settings.max_bodies_bytes)
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
        self._start(sweeping.watch(self.pace, self.watermark, self.store, self.settings.models_s))
        self._start(sweeping.run(self.store, self.settings.sweep_s))
        self._start(sweeping.tell_cpu(self.store.connection, self.settings.stats_s))

    async def stop(self) -> None:
        """Stop the loops and let go of the store."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.store.connection.aclose()

    def hold_body(self, idempotency_key: str) -> AbstractContextManager[Body]:
        """Begin to receive a body; raises QueueFull where no job would be taken, whatever it is."""
        refusal = self.watermark.refusal("interactive")
        if refusal is not None and not idempotency_key:
            raise refusal
        return self.bodies.hold()

    async def take(self, draft: Draft, idempotency_key: str, *, waits: bool) -> Taken:
        """Take the job that a draft asks for; raises Refused and NotNow. Who waits asks for its outcome at once."""
        submission = admit(
            draft,
            self.catalogue,
            tenant=TENANT,
            idempotency_key=idempotency_key,
            shards=self.store.settings.shards,
            max_deadline_ms=self.settings.max_deadline_ms,
        )
        return await self.submit(submission, waits=waits)

    async def submit(self, submission: Submission, *, waits: bool = False) -> Taken:
        """Hand a job in; while the server is too full for new ones, only those that a key made before are found."""
        refusal = self.watermark.refusal(submission.lane)
        if refusal is not None and not submission.idempotency_key:
            raise refusal
        end = self.waiting.expect(submission.id) if waits else None
        try:
            (accepted,) = await self.store.submit([submission], self.id if waits else "", closed=refusal is not None)
        except BaseException as error:
            if end is not None:
                self.waiting.forget(submission.id, end)
            if isinstance(error, QueueFull):
                back_in_s = self.pace.retry_after_s(submission.model, self.store.settings.max_jobs)
                error.details.setdefault("retry_after_s", back_in_s)
                raise (refusal or error) from None
            raise
        if end is not None and accepted.replayed:
            self.waiting.forget(submission.id, end)
            end = None
        elif end is not None:
            self.waiting.confirm(submission.id)
        return Taken(accepted, fresh(submission, accepted), end)

    async def outcome(self, taken: Taken, wait_s: float, hang_up: asyncio.Task[None] | None = None) -> Job:
        """Give a job that was taken as it stands once it is final, or the wait is over.

        `hang_up` ends when the caller is gone: the job is canceled then.
        """
        job_id = taken.accepted.id
        if taken.accepted.replayed:
            return await self._of_key(taken.accepted, wait_s)
        end = taken.end
        if end is None:
            return taken.job
        if hang_up is not None:
            hang_up.add_done_callback(lambda _: send_home(end))
        job = await self.waiting.until_final(job_id, end, wait_s)
        if job is None and hang_up is not None and hang_up.done() and not hang_up.cancelled():
            with suppress(Refused):  # it has just ended
                await self.store.cancel(job_id, TENANT)
        return job or await self.read(job_id)

    async def _of_key(self, accepted: Accepted, wait_s: float) -> Job:
        """Give the job that an Idempotency-Key made before; raises Refused where it is kept no more."""
        try:
            if accepted.created_us:
                return await (self.wait(accepted.id, wait_s) if wait_s else self.read(accepted.id))
        except Refused as error:
            if error.code != "job_not_found":
                raise
        kept = f"results are kept for {self.store.settings.result_ttl_s:g} s"
        message = f"job {accepted.id} of this Idempotency-Key has ended and is not run again; {kept}"
        raise Refused("result_expired", message, job=accepted.id)

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
