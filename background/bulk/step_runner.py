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
from background.bulk.expand import Chunk, Maker, Reader, refused
from background.bulk.finalize import MOST_DOUBLINGS, Closer, Rest, overdue_s, rest_after
from background.bulk.image_fetch import Images
from background.bulk.validate import Plan
from jobs.bulk import checkpoints, files, records
from jobs.bulk.checkpoints import Overtaken, Stand
from jobs.bulk.input_lines import Bits
from jobs.bulk.records import Bulk
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.contract.address_policy import Guard
from jobs.contract.background_lease import Flight
from jobs.contract.errors import JitneyError, NotNow, Refused, StoreUnavailable
from jobs.models.catalog import Catalogue
from jobs.redis_client.pipelined_connection import Word
from jobs.store.job_store import JobStore

log = logging.getLogger("jitney.deliver")

PAUSE_S: Final = 0.2
LOST_SHARE: Final = 4  # a lost step may be another's fault: so many times as many are needed as of those that fail
BEATS_IN_FLIGHT: Final = 3
TOGETHER: Final = 100  # jobs in one write: interactive ones wait as long as it takes
EMPTY: Final = {"code": "empty_file", "message": "the file has no line", "param": "input_file_id", "line": None}


class Course:
    """What a step keeps between its chunks: its flight, the bulk as last read, the plan of the lines, the open file."""

    def __init__(self, flight: Flight) -> None:
        self.flight = flight
        self.stand: Stand | None = None
        self.plan: Plan | None = None
        self.reader: Reader | None = None

    async def leave(self) -> None:
        """Close the file."""
        reader, self.reader = self.reader, None
        if reader is not None:
            await reader.aclose()


class Stepper:
    """Takes bulks forward."""

    def __init__(
        self, settings: BulkSettings, store: JobStore, storage: Storage, catalogue: Catalogue, guard: Guard
    ) -> None:
        self._settings, self._store, self._storage, self._catalogue = settings, store, storage, catalogue
        self._images = Images(settings, guard)
        self._maker = Maker(settings, catalogue, guard, self._images, store.settings.shards)
        self._flight_ms = int(settings.bulk_flight_s * 1000)
        self._collector = Collector(settings, store, storage)
        self._closer = Closer(settings, store, storage, self._collector)
        self._under_way: set[asyncio.Task[None]] = set()

    async def step(self, flight: Flight) -> None:
        """Make a step, unless this flight is not the bulk's last one any more."""
        task = asyncio.ensure_future(self._step(flight))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)

    async def aclose(self) -> None:
        """Break off what is under way: whoever comes next goes on from the last checkpoint."""
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._images.aclose()

    async def _step(self, flight: Flight) -> None:
        course, rest = Course(flight), Rest()
        try:
            rest = await self._try(course)
        except Overtaken:
            return
        except StoreUnavailable:
            await asyncio.sleep(PAUSE_S)
        except asyncio.CancelledError:
            await self._land(flight, rest, within_s=0)
            raise
        except Exception as error:
            log.exception("batch_%s cannot be given up", flight.delivery)
            rest = rest_after(MOST_DOUBLINGS, self._settings.bulk_retry_s, type(error).__name__)
        finally:
            await course.leave()
        await self._land(flight, rest, within_s=self._settings.bulk_flight_s)

    async def _try(self, course: Course) -> Rest:
        """Advance, and give the rest that follows. Whatever fails, the bulk has a way to its end.

        A bulk whose file or request is at fault ends at once; one that cannot go on when it is overdue for BULK_END_S;
        one whose steps fail unexpectedly after BULK_STEP_TRIES of them. Raises StoreUnavailable, Overtaken.
        """
        s = self._settings
        try:
            return Rest(await self._advance(course))
        except (Overtaken, StoreUnavailable):
            raise
        except NotNow as error:
            if course.stand is None or overdue_s(course.stand) < s.bulk_end_s:
                return Rest(s.bulk_retry_s, error.message)
            reason: JitneyError = error
        except Refused as error:
            reason = error
        except Exception as error:
            log.exception("a step of batch_%s failed unexpectedly", course.flight.delivery)
            fault = type(error).__name__
            faults = 0 if course.stand is None else course.stand.bulk.faults
            if faults + 1 < s.bulk_step_tries:
                return rest_after(faults, s.bulk_retry_s, fault)
            message = f"{faults + 1} steps of the batch in a row failed unexpectedly, the last: {fault}"
            reason = Refused("internal_error", message)
        if course.stand is None:
            return Rest(s.bulk_retry_s, reason.message)
        await self._closer.give_up(course.flight, course.stand, reason)
        raise Overtaken

    async def _land(self, flight: Flight, rest: Rest, within_s: float) -> None:
        """End the step, also after an outage, as long as the flight is ours."""
        until_s = time.monotonic() + within_s
        while True:
            try:
                return await checkpoints.land(self._store, flight, rest.after_s, rest.stalled, is_fault=rest.is_fault)
            except StoreUnavailable:
                if time.monotonic() >= until_s:
                    return None
                await asyncio.sleep(PAUSE_S)

    async def _advance(self, course: Course) -> float:
        """Go on until there is nothing to do, or the time is up; gives in how many seconds to look again."""
        until_s = time.monotonic() + self._settings.bulk_step_s
        while True:
            stand = course.stand = await checkpoints.begin(self._store, course.flight, self._flight_ms)
            bulk = stand.bulk
            if bulk.losses >= LOST_SHARE * self._settings.bulk_step_tries:
                message = f"{bulk.losses} steps of the batch in a row were lost: their process ended, or said nothing"
                raise Refused("internal_error", message)
            if not bulk.is_validated:
                await self._validate(course, bulk)
                continue
            if not bulk.walks_out and (bulk.status == "cancelling" or stand.now_ms >= bulk.expires_ms):
                await self._walk_out(course, bulk)
                continue
            if bulk.collected == bulk.total == bulk.expanded:
                await self._closer.close(course.flight, bulk, bulk.walks_out or "completed", stand.now_ms)
                raise Overtaken
            did = await self._collector.collect(course.flight, stand)
            did = await self._expand(course, stand) or did
            if time.monotonic() >= until_s:
                return 0
            if not did:
                left_s = (bulk.expires_ms - stand.now_ms) / 1000 if not bulk.walks_out else self._settings.bulk_poll_s
                return max(0.0, min(self._settings.bulk_poll_s, left_s))

    # ---- before anything is run

    async def _validate(self, course: Course, bulk: Bulk) -> None:
        async def go_on() -> None:
            await checkpoints.write(self._store, course.flight, self._flight_ms)

        await self._catalogue.refresh()
        wanted = await self._failed_lines(bulk) if bulk.retry_of else None
        try:
            found = await validate.validate(
                self._storage, self._settings, self._catalogue, bulk, wanted=wanted, go_on=go_on
            )
        except KeyError:
            missing = Refused("file_not_found", f"the content of {bulk.file} is gone")
            found = validate.Findings(0, 0, [{"code": missing.code, "message": missing.message}], Bits())
        now_ms = (await checkpoints.begin(self._store, course.flight, self._flight_ms)).now_ms
        if not found.good:
            errors = orjson.dumps({"object": "list", "data": found.reasons or [EMPTY]})
            failed = bulk._replace(errors=errors, total=found.total)
            return await self._closer.close(course.flight, failed, "failed", now_ms)
        await validate.keep_plan(self._storage, bulk, Plan(found.duplicates, wanted))
        fields: dict[str, Word] = {"total": found.total}
        if bulk.status == "validating":
            fields |= {"status": "in_progress", "in_progress_ms": now_ms}
        await checkpoints.write(self._store, course.flight, self._flight_ms, bulk.status, fields)
        return None

    async def _failed_lines(self, bulk: Bulk) -> Bits:
        """Read which lines of an earlier bulk over the same file have failed; raises Refused where that is gone."""
        try:
            return await self._read_failed_lines(bulk)
        except Refused as error:
            earlier = records.PREFIX + bulk.retry_of
            message = f"which lines of {earlier} failed is not known any more: {error.message}"
            raise Refused(error.code, message, param="retry_of") from error

    async def _read_failed_lines(self, bulk: Bulk) -> Bits:
        failed = Bits()
        before = await records.find(self._store, bulk.tenant, records.PREFIX + bulk.retry_of)
        if before.err_exists:
            file = await files.find(self._store, bulk.tenant, before.err_file)
            rest = b""
            async for block in files.content(self._store, self._storage, file):
                *whole, rest = (rest + block).split(b"\n")
                for line in whole:
                    failed.add(orjson.loads(line)["error"]["line"])
        return failed

    async def _walk_out(self, course: Course, bulk: Bulk) -> None:
        """Begin to end every line that has no outcome yet, from the first line on: jobs that wait or run among them."""
        why = "cancelled" if bulk.status == "cancelling" else "expired"
        fields: dict[str, Word] = {"walks_out": why, "expanded": 0, "line": 0, "offset": 0}
        await checkpoints.write(self._store, course.flight, self._flight_ms, bulk.status, fields)
        await course.leave()

    # ---- lines become jobs

    async def _expand(self, course: Course, stand: Stand) -> bool:
        """Take the next chunk of lines, as far as there is room; True where some were taken."""
        bulk, s = stand.bulk, self._settings
        room = self._room(stand)
        if bulk.expanded >= bulk.total or room <= 0:
            return False
        reader = await self._reader(course, bulk)
        await self._catalogue.refresh_if_older(s.bulk_step_s)
        try:
            lines = await reader.take(min(s.bulk_chunk, room))
        except KeyError as error:
            raise Refused("file_not_found", f"the content of {bulk.file} is gone from storage") from error
        if not lines:
            raise Refused("file_not_found", f"{bulk.file} ends before its last line: its content has changed")
        ended = await checkpoints.marks(self._store, bulk, lines[0].number, lines[-1].number)
        left_ms = bulk.expires_ms - stand.now_ms
        async with self._flying(course.flight):
            chunk = await self._maker.make(bulk, reader.plan, lines, ended, left_ms)
        await self._submit(course, chunk)
        size = 0 if bulk.walks_out else chunk.size
        await checkpoints.expand(
            self._store,
            course.flight,
            self._flight_ms,
            bulk,
            taken=len(lines),
            place=reader.place,
            size=size,
            ends=chunk.ends,
        )
        return True

    @asynccontextmanager
    async def _flying(self, flight: Flight) -> AsyncGenerator[None]:
        """Say that the step goes on for as long as the block runs: images may take longer than BULK_FLIGHT_S."""

        async def say() -> None:
            while True:
                await asyncio.sleep(self._flight_ms / 1000 / BEATS_IN_FLIGHT)
                with suppress(StoreUnavailable):
                    await checkpoints.write(self._store, flight, self._flight_ms)

        beats = asyncio.ensure_future(say())
        try:
            yield
        finally:
            beats.cancel()
            with suppress(asyncio.CancelledError, Overtaken):  # overtaken: the next checkpoint tells
                await beats

    async def _reader(self, course: Course, bulk: Bulk) -> Reader:
        """Give the open file at the place where the bulk goes on; raises Refused where its plan is gone."""
        reader = course.reader
        if reader is None or reader.place != (bulk.line, bulk.offset):
            await course.leave()
            try:
                course.plan = course.plan or await validate.read_plan(self._storage, bulk)
            except KeyError as error:
                raise Refused("file_not_found", f"what was found out about {bulk.file} is gone from storage") from error
            reader = course.reader = Reader(self._storage, self._settings, bulk, course.plan)
        return reader

    async def _submit(self, course: Course, chunk: Chunk) -> None:
        """Hand a chunk's jobs in; one that is refused for good ends its line. Raises NotNow where there is no room."""
        for first in range(0, len(chunk.jobs), TOGETHER):
            jobs = chunk.jobs[first : first + TOGETHER]
            verdicts = await self._store.submit(jobs)
            full = refused(verdicts)
            if full is not None:  # some may have been taken: they are found again
                await course.leave()
                raise full
            for job, verdict in zip(jobs, verdicts, strict=True):
                if isinstance(verdict, JitneyError):
                    chunk.end(job, verdict)

    def _room(self, stand: Stand) -> int:
        """Count the lines that may become jobs now: none before a good part of what may be in flight is free."""
        bulk, s, share = stand.bulk, self._settings, max(1, stand.open_bulks)
        most, most_bytes = max(1, s.bulk_in_flight // share), s.bulk_in_flight_bytes // share
        in_flight = stand.waiting if bulk.walks_out else bulk.expanded - bulk.collected
        if in_flight and bulk.held_bytes >= most_bytes:
            return 0
        room = most - in_flight
        return room if room >= min(s.bulk_chunk, most // 2, bulk.total - bulk.expanded) else 0
