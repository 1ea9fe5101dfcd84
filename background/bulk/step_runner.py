"""One step of a bulk: as much as there is to do now, in chunks, each with a checkpoint; then the next bulk's turn.

A step may be killed anywhere. What it did since its last checkpoint is done again, and comes out the same: a line's job
has one id, a line's outcome is logged once, and what is stored is not seen before its checkpoint names it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

import orjson

from background.bulk import validate
from background.bulk.collect import Collector
from background.bulk.expand import Chunk, JobBuilder, LineReader, find_refusal
from background.bulk.finalize import MAX_DOUBLINGS, BulkFinalizer, StepBackoff, backoff_after, overdue_s
from background.bulk.image_fetch import ImageFetcher
from background.bulk.validate import LinePlan
from jobs.bulk import checkpoints, files, records
from jobs.bulk.checkpoints import BulkSnapshot, LeaseLost
from jobs.bulk.input_lines import Bitmap
from jobs.bulk.records import Bulk
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.contract.address_policy import AddressPolicy
from jobs.contract.background_lease import BackgroundLease
from jobs.contract.errors import JitneyError, Refused, RetryLater, StoreUnavailable
from jobs.models.catalog import ModelCatalog
from jobs.redis_client.pipelined_connection import Arg
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.deliver")

PAUSE_S: Final = 0.2
LOST_STEP_FACTOR: Final = (
    4  # a lost step may be another's fault: so many times as many are needed as of those that fail
)
HEARTBEATS_PER_LEASE: Final = 3
JOBS_PER_WRITE: Final = 100  # jobs in one write: interactive ones wait as long as it takes
EMPTY_FILE_ERROR: Final = {
    "code": "empty_file",
    "message": "the file has no line",
    "param": "input_file_id",
    "line": None,
}


class StepContext:
    """What a step keeps between its chunks: its flight, the bulk as last read, the plan of the lines, the open file."""

    def __init__(self, lease: BackgroundLease) -> None:
        self.lease = lease
        self.snapshot: BulkSnapshot | None = None
        self.plan: LinePlan | None = None
        self.reader: LineReader | None = None

    async def close_reader(self) -> None:
        """Close the file."""
        reader, self.reader = self.reader, None
        if reader is not None:
            await reader.aclose()


class BulkStepRunner:
    """Takes bulks forward."""

    def __init__(
        self,
        settings: BulkSettings,
        store: JobStore,
        storage: Storage,
        catalog: ModelCatalog,
        address_policy: AddressPolicy,
    ) -> None:
        self._settings, self._store, self._storage, self._catalogue = settings, store, storage, catalog
        self._images = ImageFetcher(settings, address_policy)
        self._job_builder = JobBuilder(settings, catalog, address_policy, self._images, store.settings.shards)
        self._flight_ms = int(settings.bulk_step_lease_s * 1000)
        self._collector = Collector(settings, store, storage)
        self._finalizer = BulkFinalizer(settings, store, storage, self._collector)
        self._running: set[asyncio.Task[None]] = set()

    async def step(self, lease: BackgroundLease) -> None:
        """Make a step, unless this flight is not the bulk's last one any more."""
        task = asyncio.ensure_future(self._step(lease))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def aclose(self) -> None:
        """Break off what is under way: whoever comes next goes on from the last checkpoint."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._images.aclose()

    async def _step(self, lease: BackgroundLease) -> None:
        context, backoff = StepContext(lease), StepBackoff()
        try:
            backoff = await self._try(context)
        except LeaseLost:
            return
        except StoreUnavailable:
            await asyncio.sleep(PAUSE_S)
        except asyncio.CancelledError:
            await self._finish_step(lease, backoff, within_s=0)
            raise
        except Exception as error:
            log.exception("batch_%s cannot be given up", lease.delivery)
            backoff = backoff_after(MAX_DOUBLINGS, self._settings.bulk_retry_s, type(error).__name__)
        finally:
            await context.close_reader()
        await self._finish_step(lease, backoff, within_s=self._settings.bulk_step_lease_s)

    async def _try(self, context: StepContext) -> StepBackoff:
        """Advance, and give the rest that follows. Whatever fails, the bulk has a way to its end.

        A bulk whose file or request is at fault ends at once; one that cannot go on, JITNEY_BULK_END_S after its end;
        one whose steps fail unexpectedly after JITNEY_BULK_STEP_TRIES of them. Raises StoreUnavailable, Overtaken.
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
            message = f"{faults + 1} steps of the batch in a row failed unexpectedly, the last: {fault}"
            reason = Refused("internal_error", message)
        if context.snapshot is None:
            return StepBackoff(s.bulk_retry_s, reason.message)
        await self._finalizer.abort(context.lease, context.snapshot, reason)
        raise LeaseLost

    async def _finish_step(self, lease: BackgroundLease, backoff: StepBackoff, within_s: float) -> None:
        """End the step, also after an outage, as long as the flight is ours."""
        until_s = time.monotonic() + within_s
        while True:
            try:
                return await checkpoints.finish_step(
                    self._store, lease, backoff.after_s, backoff.stalled, is_fault=backoff.is_fault
                )
            except StoreUnavailable:
                if time.monotonic() >= until_s:
                    return None
                await asyncio.sleep(PAUSE_S)

    async def _advance(self, context: StepContext) -> float:
        """Go on until there is nothing to do, or the time is up; gives in how many seconds to look again."""
        until_s = time.monotonic() + self._settings.bulk_step_s
        while True:
            snapshot = context.snapshot = await checkpoints.begin_step(self._store, context.lease, self._flight_ms)
            bulk = snapshot.bulk
            if bulk.losses >= LOST_STEP_FACTOR * self._settings.bulk_step_tries:
                message = f"{bulk.losses} steps of the batch in a row were lost: their process ended, or said nothing"
                raise Refused("internal_error", message)
            if not bulk.is_validated:
                await self._validate(context, bulk)
                continue
            if not bulk.abort_reason and (bulk.status == "cancelling" or snapshot.now_ms >= bulk.expires_ms):
                await self._abort_remaining(context, bulk)
                continue
            if bulk.collected == bulk.total == bulk.expanded:
                await self._finalizer.close(context.lease, bulk, bulk.abort_reason or "completed", snapshot.now_ms)
                raise LeaseLost
            did = await self._collector.collect(context.lease, snapshot)
            did = await self._expand(context, snapshot) or did
            if time.monotonic() >= until_s:
                return 0
            if not did:
                left_s = (
                    (bulk.expires_ms - snapshot.now_ms) / 1000 if not bulk.abort_reason else self._settings.bulk_poll_s
                )
                return max(0.0, min(self._settings.bulk_poll_s, left_s))

    # ---- before anything is run

    async def _validate(self, context: StepContext, bulk: Bulk) -> None:
        async def renew_lease() -> None:
            await checkpoints.update_bulk(self._store, context.lease, self._flight_ms)

        await self._catalogue.refresh()
        included = await self._failed_lines(bulk) if bulk.retry_of else None
        try:
            found = await validate.validate(
                self._storage, self._settings, self._catalogue, bulk, included=included, renew_lease=renew_lease
            )
        except KeyError:
            missing = Refused("file_not_found", f"the content of {bulk.file} is gone")
            found = validate.ValidationResult(0, 0, [{"code": missing.code, "message": missing.message}], Bitmap())
        now_ms = (await checkpoints.begin_step(self._store, context.lease, self._flight_ms)).now_ms
        if not found.good:
            errors = orjson.dumps({"object": "list", "data": found.reasons or [EMPTY_FILE_ERROR]})
            failed = bulk._replace(errors=errors, total=found.total)
            return await self._finalizer.close(context.lease, failed, "failed", now_ms)
        await validate.write_plan(self._storage, bulk, LinePlan(found.duplicates, included))
        fields: dict[str, Arg] = {"total": found.total}
        if bulk.status == "validating":
            fields |= {"status": "in_progress", "in_progress_ms": now_ms}
        await checkpoints.update_bulk(self._store, context.lease, self._flight_ms, bulk.status, fields)
        return None

    async def _failed_lines(self, bulk: Bulk) -> Bitmap:
        """Read which lines of an earlier bulk over the same file have failed; raises Refused where that is gone."""
        try:
            return await self._read_failed_lines(bulk)
        except Refused as error:
            earlier = records.WIRE_ID_PREFIX + bulk.retry_of
            message = f"which lines of {earlier} failed is not known any more: {error.message}"
            raise Refused(error.code, message, param="retry_of") from error

    async def _read_failed_lines(self, bulk: Bulk) -> Bitmap:
        failed = Bitmap()
        before = await records.get_bulk(self._store, bulk.tenant, records.WIRE_ID_PREFIX + bulk.retry_of)
        if before.err_exists:
            file = await files.get_file(self._store, bulk.tenant, before.err_file)
            backoff = b""
            async for block in files.read_content(self._store, self._storage, file):
                *whole, backoff = (backoff + block).split(b"\n")
                for line in whole:
                    failed.add(orjson.loads(line)["error"]["line"])
        return failed

    async def _abort_remaining(self, context: StepContext, bulk: Bulk) -> None:
        """Begin to end every line that has no outcome yet, from the first line on: jobs that wait or run among them."""
        why = "cancelled" if bulk.status == "cancelling" else "expired"
        fields: dict[str, Arg] = {"abort_reason": why, "expanded": 0, "line": 0, "offset": 0}
        await checkpoints.update_bulk(self._store, context.lease, self._flight_ms, bulk.status, fields)
        await context.close_reader()

    # ---- lines become jobs

    async def _expand(self, context: StepContext, snapshot: BulkSnapshot) -> bool:
        """Take the next chunk of lines, as far as there is room; True where some were taken."""
        bulk, s = snapshot.bulk, self._settings
        room = self._room(snapshot)
        if bulk.expanded >= bulk.total or room <= 0:
            return False
        reader = await self._reader(context, bulk)
        await self._catalogue.refresh_if_older(s.bulk_step_s)
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
        size = 0 if bulk.abort_reason else chunk.size
        await checkpoints.record_expansion(
            self._store,
            context.lease,
            self._flight_ms,
            bulk,
            taken=len(lines),
            place=reader.place,
            size=size,
            ends=chunk.ends,
        )
        return True

    @asynccontextmanager
    async def _keep_lease(self, lease: BackgroundLease) -> AsyncGenerator[None]:
        """Renew the step's lease while the block runs: images may take longer than JITNEY_BULK_STEP_LEASE_S."""

        async def say() -> None:
            while True:
                await asyncio.sleep(self._flight_ms / 1000 / HEARTBEATS_PER_LEASE)
                with suppress(StoreUnavailable):
                    await checkpoints.update_bulk(self._store, lease, self._flight_ms)

        beats = asyncio.ensure_future(say())
        try:
            yield
        finally:
            beats.cancel()
            with suppress(asyncio.CancelledError, LeaseLost):  # overtaken: the next checkpoint tells
                await beats

    async def _reader(self, context: StepContext, bulk: Bulk) -> LineReader:
        """Give the open file at the place where the bulk goes on; raises Refused where its plan is gone."""
        reader = context.reader
        if reader is None or reader.place != (bulk.line, bulk.offset):
            await context.close_reader()
            try:
                context.plan = context.plan or await validate.read_plan(self._storage, bulk)
            except KeyError as error:
                raise Refused("file_not_found", f"what was found out about {bulk.file} is gone from storage") from error
            reader = context.reader = LineReader(self._storage, self._settings, bulk, context.plan)
        return reader

    async def _submit(self, context: StepContext, chunk: Chunk) -> None:
        """Hand a chunk's jobs in; one that is refused for good ends its line. Raises NotNow where there is no room."""
        for first in range(0, len(chunk.jobs), JOBS_PER_WRITE):
            jobs = chunk.jobs[first : first + JOBS_PER_WRITE]
            verdicts = await self._store.submit(jobs)
            full = find_refusal(verdicts)
            if full is not None:  # some may have been taken: they are found again
                await context.close_reader()
                raise full
            for job, verdict in zip(jobs, verdicts, strict=True):
                if isinstance(verdict, JitneyError):
                    chunk.end(job, verdict)

    def _room(self, snapshot: BulkSnapshot) -> int:
        """Count the lines that may become jobs now: none before a good part of what may be in flight is free."""
        bulk, s, share = snapshot.bulk, self._settings, max(1, snapshot.open_bulks)
        most, most_bytes = max(1, s.bulk_in_flight // share), s.bulk_in_flight_bytes // share
        in_flight = snapshot.waiting if bulk.abort_reason else bulk.expanded - bulk.collected
        if in_flight and bulk.held_bytes >= most_bytes:
            return 0
        room = most - in_flight
        return room if room >= min(s.bulk_chunk, most // 2, bulk.total - bulk.expanded) else 0
