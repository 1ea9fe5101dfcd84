"""Runs one step of a bulk job in chunks, each with a checkpoint, then yields to other bulk jobs.

A step may be killed at any time. Work since the last checkpoint is repeated with the same result: a line's job has one
id, a line's outcome is logged once, and stored data is visible only after its checkpoint names it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

import orjson

from background.bulk import validate
from background.bulk.expand import Chunk, JobBuilder, LineReader
from background.bulk.image_fetch import ImageFetcher
from background.bulk.outcomes import MAX_DOUBLINGS, OutcomeWriter, StepBackoff, backoff_after, overdue_s
from background.bulk.result_lines import reason_view
from background.bulk.validate import LinePlan
from jobs.bulk import checkpoints, files, records
from jobs.bulk.checkpoints import BulkSnapshot, LeaseLost
from jobs.bulk.input_lines import Bitmap
from jobs.bulk.records import Bulk
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.contract.address_policy import AddressPolicy
from jobs.contract.errors import JitneyError, Refused, RetryLater, StoreUnavailable
from jobs.models.catalog import ModelCatalog
from jobs.redis_client.pipelined_connection import Arg
from jobs.redis_client.task_supervisor import TaskSupervisor
from jobs.store.background_lease import BackgroundLease
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.background")

PAUSE_S: Final = 0.2
LOST_STEP_FACTOR: Final = 4  # lost steps allowed, as a multiple of failed ones: another job may have killed the process
HEARTBEATS_PER_LEASE: Final = 3
JOBS_PER_WRITE: Final = 100  # jobs in one write, which delays interactive jobs
_EMPTY_FILE: Final = Refused("empty_file", "the file has no line", param="input_file_id")


class StepContext:
    """State of a step between its chunks: lease, last snapshot, line plan, open file."""

    def __init__(self, lease: BackgroundLease) -> None:
        self.lease = lease
        self.snapshot: BulkSnapshot | None = None
        self.plan: LinePlan | None = None
        self.reader: LineReader | None = None

    async def close_reader(self) -> None:
        reader, self.reader = self.reader, None
        if reader is not None:
            await reader.aclose()


class BulkStepRunner:
    """Runs the steps of bulk jobs."""

    def __init__(
        self, settings: BulkSettings, store: JobStore, storage: Storage, catalog: ModelCatalog, policy: AddressPolicy
    ) -> None:
        self._settings, self._store, self._storage, self._catalog = settings, store, storage, catalog
        self._images = ImageFetcher(settings, policy)
        self._job_builder = JobBuilder(settings, catalog, policy, self._images, store.settings.shards)
        self._lease_ms = int(settings.bulk_step_lease_s * 1000)
        self._outcomes = OutcomeWriter(settings, store, storage)
        self._tasks = TaskSupervisor()

    async def step(self, lease: BackgroundLease) -> None:
        """Run a step, unless the lease has been superseded."""
        await asyncio.shield(self._tasks.run(self._step(lease)))

    async def aclose(self) -> None:
        """Cancel the steps under way; the next process goes on from their last checkpoints."""
        await self._tasks.finish_work()
        await self._images.aclose()

    async def _step(self, lease: BackgroundLease) -> None:
        context, backoff = StepContext(lease), StepBackoff()
        try:
            backoff = await self._try_step(context)
        except LeaseLost:
            return
        except StoreUnavailable:
            await asyncio.sleep(PAUSE_S)
        except asyncio.CancelledError:
            await self._finish_step(lease, backoff, within_s=0)
            raise
        except Exception as error:
            log.exception("cannot end batch_%s", lease.delivery)
            backoff = backoff_after(MAX_DOUBLINGS, self._settings.bulk_retry_s, type(error).__name__)
        finally:
            await context.close_reader()
        await self._finish_step(lease, backoff, within_s=self._settings.bulk_step_lease_s)

    async def _try_step(self, context: StepContext) -> StepBackoff:
        """Advance the bulk job and return the backoff. Every kind of failure leads to an end of the bulk job.

        It ends at once if its file or request is at fault, JITNEY_BULK_END_S after its end if it cannot go on, or
        after JITNEY_BULK_STEP_TRIES unexpected failures in a row. Raises StoreUnavailable, LeaseLost.
        """
        s = self._settings
        try:
            return StepBackoff(await self._advance(context))
        except (LeaseLost, StoreUnavailable):
            raise
        except RetryLater as error:
            if context.snapshot is None or overdue_s(context.snapshot) < s.bulk_end_s:
                return StepBackoff(s.bulk_retry_s, error.message)
            reason: JitneyError = error
        except Refused as error:
            reason = error
        except Exception as error:
            log.exception("a step of batch_%s failed unexpectedly", context.lease.delivery)
            fault = type(error).__name__
            faults = 0 if context.snapshot is None else context.snapshot.bulk.faults
            if faults + 1 < s.bulk_step_tries:
                return backoff_after(faults, s.bulk_retry_s, fault)
            message = f"{faults + 1} steps of the batch in a row failed unexpectedly; the last error: {fault}"
            reason = Refused("internal_error", message)
        if context.snapshot is None:
            return StepBackoff(s.bulk_retry_s, reason.message)
        await self._outcomes.abort(context.lease, context.snapshot, reason)
        raise LeaseLost

    async def _finish_step(self, lease: BackgroundLease, backoff: StepBackoff, within_s: float) -> None:
        """Finish the step; retries for `within_s` seconds while Redis is away."""
        until_s = time.monotonic() + within_s
        while True:
            try:
                after_s, stalled, is_fault = backoff
                return await checkpoints.finish_step(self._store, lease, after_s, stalled, is_fault=is_fault)
            except StoreUnavailable:
                if time.monotonic() >= until_s:
                    return None
                await asyncio.sleep(PAUSE_S)

    async def _advance(self, context: StepContext) -> float:
        """Process chunks until none is due or JITNEY_BULK_STEP_S has passed; returns the seconds to wait then."""
        until_s = time.monotonic() + self._settings.bulk_step_s
        while True:
            snapshot = context.snapshot = await checkpoints.begin_step(self._store, context.lease, self._lease_ms)
            bulk = snapshot.bulk
            if bulk.losses >= LOST_STEP_FACTOR * self._settings.bulk_step_tries:
                message = f"{bulk.losses} steps of the batch in a row were lost: their process ended or did not respond"
                raise Refused("internal_error", message)
            if not bulk.is_validated:
                await self._validate(context, bulk)
                continue
            if not bulk.abort_reason and (bulk.status == "cancelling" or snapshot.now_ms >= bulk.expires_ms):
                await self._abort_remaining(context, bulk)
                continue
            if bulk.collected == bulk.total == bulk.expanded:
                await self._outcomes.close(context.lease, bulk, bulk.abort_reason or "completed", snapshot.now_ms)
                raise LeaseLost
            async with self._keep_lease(context.lease):
                did = await self._outcomes.collect(context.lease, snapshot)
            did = await self._expand(context, snapshot) or did
            if time.monotonic() >= until_s:
                return 0
            if not did:
                left_s = (bulk.expires_ms - snapshot.now_ms) / 1000
                poll_s = self._settings.bulk_poll_s
                return poll_s if bulk.abort_reason else max(0.0, min(poll_s, left_s))

    # ---- validation

    async def _validate(self, context: StepContext, bulk: Bulk) -> None:
        renew = partial(checkpoints.update_bulk, self._store, context.lease, self._lease_ms)
        await self._catalog.refresh()
        included = await self._failed_lines(bulk) if bulk.retry_of else None
        try:
            result = await validate.validate(self._storage, self._settings, self._catalog, bulk, included, renew=renew)
        except KeyError:
            missing = {"code": "file_not_found", "message": f"the content of {bulk.file} is gone"}
            result = validate.ValidationResult(0, 0, [missing], Bitmap())
        now_ms = (await checkpoints.begin_step(self._store, context.lease, self._lease_ms)).now_ms
        if not result.good:
            errors = orjson.dumps({"object": "list", "data": result.reasons or [reason_view(_EMPTY_FILE)]})
            failed = bulk._replace(errors=errors, total=result.total)
            return await self._outcomes.close(context.lease, failed, "failed", now_ms)
        await validate.write_plan(self._storage, bulk, LinePlan(result.duplicates, included))
        fields: dict[str, Arg] = {"total": result.total}
        if bulk.status == "validating":
            fields |= {"status": "in_progress", "in_progress_ms": now_ms}
        await checkpoints.update_bulk(self._store, context.lease, self._lease_ms, bulk.status, fields)
        return None

    async def _failed_lines(self, bulk: Bulk) -> Bitmap:
        """Return the failed lines of an earlier bulk job over the same file; raises Refused if its results are gone."""
        try:
            return await self._read_failed_lines(bulk)
        except Refused as error:
            earlier = records.WIRE_ID_PREFIX + bulk.retry_of
            message = f"cannot tell which lines of {earlier} failed: {error.message}"
            raise Refused(error.code, message, param="retry_of") from error

    async def _read_failed_lines(self, bulk: Bulk) -> Bitmap:
        failed = Bitmap()
        before = await records.get_bulk(self._store, bulk.tenant, records.WIRE_ID_PREFIX + bulk.retry_of)
        if before.err_exists:
            file = await files.get_file(self._store, bulk.tenant, before.err_file)
            rest = b""
            async for block in files.read_content(self._store, self._storage, file):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    failed.add(orjson.loads(line)["error"]["line"])
        return failed

    async def _abort_remaining(self, context: StepContext, bulk: Bulk) -> None:
        """Restart at the first line to end every line without an outcome, including those whose jobs wait or run."""
        reason = "cancelled" if bulk.status == "cancelling" else "expired"
        fields: dict[str, Arg] = {"abort_reason": reason, "expanded": 0, "line": 0, "offset": 0}
        await checkpoints.update_bulk(self._store, context.lease, self._lease_ms, bulk.status, fields)
        await context.close_reader()

    # ---- expansion

    async def _expand(self, context: StepContext, snapshot: BulkSnapshot) -> bool:
        """Expand the next chunk of lines if there is room; returns whether any were expanded."""
        bulk, s = snapshot.bulk, self._settings
        room = self._room(snapshot)
        if bulk.expanded >= bulk.total or room <= 0:
            return False
        reader = await self._open_reader(context, bulk)
        await self._catalog.refresh_if_older(s.bulk_step_s)
        try:
            lines = await reader.take(min(s.bulk_chunk, room))
        except KeyError as error:
            raise Refused("file_not_found", f"the content of {bulk.file} is gone from storage") from error
        if not lines:
            raise Refused("file_not_found", f"{bulk.file} ends before its last line: its content has changed")
        ended = await checkpoints.read_done_lines(self._store, bulk, lines[0].number, lines[-1].number)
        left_ms = bulk.expires_ms - snapshot.now_ms
        async with self._keep_lease(context.lease):
            chunk = await self._job_builder.make(bulk, reader.plan, lines, ended, left_ms)
        await self._submit(context, chunk)
        taken, place, size = len(lines), reader.place, 0 if bulk.abort_reason else chunk.size
        await checkpoints.record_expansion(
            self._store, context.lease, self._lease_ms, bulk, taken=taken, place=place, size=size, ends=chunk.ends
        )
        return True

    @asynccontextmanager
    async def _keep_lease(self, lease: BackgroundLease) -> AsyncGenerator[None]:
        """Renew the step's lease while the block runs: images and large outputs may outlast it."""

        async def renew_periodically() -> None:
            while True:
                await asyncio.sleep(self._lease_ms / 1000 / HEARTBEATS_PER_LEASE)
                with suppress(StoreUnavailable):
                    await checkpoints.update_bulk(self._store, lease, self._lease_ms)

        renewal = asyncio.ensure_future(renew_periodically())
        try:
            yield
        finally:
            renewal.cancel()
            with suppress(asyncio.CancelledError, LeaseLost):  # the next checkpoint raises LeaseLost too
                await renewal

    async def _open_reader(self, context: StepContext, bulk: Bulk) -> LineReader:
        """Return the reader at the bulk job's place, opened if necessary; raises Refused if the line plan is gone."""
        reader = context.reader
        if reader is None or reader.place != (bulk.line, bulk.offset):
            await context.close_reader()
            try:
                context.plan = context.plan or await validate.read_plan(self._storage, bulk)
            except KeyError as error:
                raise Refused("file_not_found", f"the validation result of {bulk.file} is gone from storage") from error
            reader = context.reader = LineReader(self._storage, self._settings, bulk, context.plan)
        return reader

    async def _submit(self, context: StepContext, chunk: Chunk) -> None:
        """Submit a chunk's jobs; a job refused for good ends its line. Raises RetryLater if there is no room."""
        for first in range(0, len(chunk.jobs), JOBS_PER_WRITE):
            jobs = chunk.jobs[first : first + JOBS_PER_WRITE]
            verdicts = await self._store.submit(jobs)
            refusal = _find_refusal(verdicts)
            if refusal is not None:  # some jobs may have been accepted: submitting them again has no effect
                await context.close_reader()
                raise refusal
            for job, verdict in zip(jobs, verdicts, strict=True):
                if isinstance(verdict, JitneyError):
                    chunk.end(job, verdict)

    def _room(self, snapshot: BulkSnapshot) -> int:
        """Return how many lines may become jobs now; 0 until a large part of the in-flight limit is free."""
        bulk, s, share = snapshot.bulk, self._settings, max(1, snapshot.open_bulks)
        max_in_flight, max_in_flight_bytes = max(1, s.bulk_in_flight // share), s.bulk_in_flight_bytes // share
        in_flight = snapshot.waiting if bulk.abort_reason else bulk.expanded - bulk.collected
        if in_flight and bulk.held_bytes >= max_in_flight_bytes:
            return 0
        room = max_in_flight - in_flight
        return room if room >= min(s.bulk_chunk, max_in_flight // 2, bulk.total - bulk.expanded) else 0


def _find_refusal(verdicts: Sequence[object]) -> RetryLater | None:
    """Return the reason why the store takes no more jobs at present, or None."""
    return next((verdict for verdict in verdicts if isinstance(verdict, RetryLater)), None)
