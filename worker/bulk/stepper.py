"""One step of a bulk: as much as there is to do now, in chunks, each with a checkpoint; then the next bulk's turn.

A step may be killed anywhere. What it did since its last checkpoint is done again, and comes out the same: a line's job
has one id, a line's outcome is logged once, and what is stored is not seen before its checkpoint names it.
"""

import asyncio
import logging
import time
from typing import Final

import orjson

from jobs.bulk import files, records, steps
from jobs.bulk.lines import Bits
from jobs.bulk.records import Bulk, view
from jobs.bulk.settings import BulkSettings
from jobs.bulk.steps import Overtaken, Stand
from jobs.bulk.storage import Storage
from jobs.catalogue import Catalogue
from jobs.errors import NotNow, Refused, StoreUnavailable
from jobs.guard import Guard
from jobs.outbox import Flight
from jobs.pipe import Word
from jobs.store import JobStore
from jobs.views import timestamp
from worker.bulk import validating
from worker.bulk.collecting import Collector
from worker.bulk.expanding import Maker, Reader, refused
from worker.bulk.images import Images
from worker.bulk.validating import Plan

log = logging.getLogger("jitney.deliver")

STALLED_S: Final = 2.0  # until a bulk is looked at again that can not go on
PAUSE_S: Final = 0.2
TOGETHER: Final = 100  # jobs in one write: interactive ones wait as long as it takes
EMPTY: Final = {"code": "empty_file", "message": "the file has no line", "param": "input_file_id", "line": None}


class Course:
    """What a step keeps in hands between its chunks: its flight, the plan of the lines, the file that it reads."""

    def __init__(self, flight: Flight) -> None:
        self.flight = flight
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
        after_s, stalled = 0.0, ""
        course = Course(flight)
        try:
            after_s = await self._advance(course)
        except Overtaken:
            return
        except StoreUnavailable:
            await asyncio.sleep(PAUSE_S)
        except NotNow as error:
            after_s, stalled = STALLED_S, error.message
        except asyncio.CancelledError:
            await self._land(flight, 0, "", within_s=0)
            raise
        except Exception:
            log.exception("a step of batch_%s failed in a way that nobody thought of", flight.delivery)
            after_s, stalled = STALLED_S, "a fault of ours; it is in the log of whoever delivers"
        finally:
            await course.leave()
        await self._land(flight, after_s, stalled, within_s=self._settings.bulk_flight_s)

    async def _land(self, flight: Flight, after_s: float, stalled: str, within_s: float) -> None:
        """End the step, also after an outage, as long as the flight is ours."""
        until_s = time.monotonic() + within_s
        while True:
            try:
                return await steps.land(self._store, flight, after_s, stalled)
            except StoreUnavailable:
                if time.monotonic() >= until_s:
                    return None
                await asyncio.sleep(PAUSE_S)

    async def _advance(self, course: Course) -> float:
        """Go on until there is nothing to do, or the time is up; gives in how many seconds to look again."""
        until_s = time.monotonic() + self._settings.bulk_step_s
        while True:
            stand = await steps.begin(self._store, course.flight, self._flight_ms)
            bulk = stand.bulk
            if not bulk.is_validated:
                await self._validate(course, bulk)
                continue
            if not bulk.walks_out and (bulk.status == "cancelling" or stand.now_ms >= bulk.expires_ms):
                await self._walk_out(course, bulk)
                continue
            if bulk.collected == bulk.total == bulk.expanded:
                await self._close(course, bulk, bulk.walks_out or "completed", stand.now_ms)
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
            await steps.write(self._store, course.flight, self._flight_ms)

        await self._catalogue.refresh()
        wanted = await self._failed_lines(bulk) if bulk.retry_of else None
        try:
            found = await validating.validate(
                self._storage, self._settings, self._catalogue, bulk, wanted=wanted, go_on=go_on
            )
        except KeyError:
            missing = Refused("file_not_found", f"the content of {bulk.file} is gone")
            found = validating.Findings(0, 0, [{"code": missing.code, "message": missing.message}], Bits())
        now_ms = (await steps.begin(self._store, course.flight, self._flight_ms)).now_ms
        if not found.good:
            errors = orjson.dumps({"object": "list", "data": found.reasons or [EMPTY]})
            return await self._close(course, bulk._replace(errors=errors, total=found.total), "failed", now_ms)
        await validating.keep_plan(self._storage, bulk, Plan(found.duplicates, wanted))
        fields: dict[str, Word] = {"total": found.total}
        if bulk.status == "validating":
            fields |= {"status": "in_progress", "in_progress_ms": now_ms}
        await steps.write(self._store, course.flight, self._flight_ms, bulk.status, fields)
        return None

    async def _failed_lines(self, bulk: Bulk) -> Bits:
        """Read which lines of an earlier bulk over the same file have failed."""
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
        await steps.write(self._store, course.flight, self._flight_ms, bulk.status, fields)
        await course.leave()

    # ---- lines become jobs

    async def _expand(self, course: Course, stand: Stand) -> bool:
        """Take the next chunk of lines, as far as there is room; True where some were taken."""
        bulk, s = stand.bulk, self._settings
        room = self._room(stand)
        if bulk.expanded >= bulk.total or room <= 0:
            return False
        if course.plan is None:
            course.plan = await validating.read_plan(self._storage, bulk)
        reader = course.reader
        if reader is None or reader.place != (bulk.line, bulk.offset):
            await course.leave()
            reader = course.reader = Reader(self._storage, s, bulk, course.plan)
        await self._catalogue.refresh_if_older(s.bulk_step_s)
        lines = await reader.take(min(s.bulk_chunk, room))
        if not lines:
            raise NotNow("storage_unavailable", "the file ends before its last line: it is not what it was")
        ended = await steps.marks(self._store, bulk, lines[0].number, lines[-1].number)
        left_ms = bulk.expires_ms - stand.now_ms
        chunk = await self._maker.make(bulk, course.plan, lines, ended, left_ms)
        for first in range(0, len(chunk.jobs), TOGETHER):
            full = refused(await self._store.submit(chunk.jobs[first : first + TOGETHER]))
            if full is not None:  # some may have been taken: they are found again
                await course.leave()
                raise full
        size = 0 if bulk.walks_out else chunk.size
        await steps.expand(
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

    def _room(self, stand: Stand) -> int:
        """Count the lines that may become jobs now: none before a good part of what may be in flight is free."""
        bulk, s, share = stand.bulk, self._settings, max(1, stand.open_bulks)
        most, most_bytes = max(1, s.bulk_in_flight // share), s.bulk_in_flight_bytes // share
        in_flight = stand.waiting if bulk.walks_out else bulk.expanded - bulk.collected
        if in_flight and bulk.held_bytes >= most_bytes:
            return 0
        room = most - in_flight
        return room if room >= min(s.bulk_chunk, most // 2, bulk.total - bulk.expanded) else 0

    # ---- the end

    async def _close(self, course: Course, bulk: Bulk, status: str, now_ms: int) -> None:
        fields: dict[str, Word] = {f"{status}_ms": now_ms}
        if status == "failed":
            fields |= {"errors": bulk.errors, "total": bulk.total}
        if status == "completed":
            fields["finalizing_ms"] = now_ms
        times = {**bulk.times, **{name.removesuffix("_ms"): now_ms for name in fields if name.endswith("_ms")}}
        told = view(bulk._replace(status=status, times=times))  # type: ignore[arg-type]  # one of them
        message = {"type": f"batch.{status}", "timestamp": timestamp(now_ms * 1000), "data": told}
        end = steps.Close(status, bulk.webhook, orjson.dumps(message), fields)
        await steps.close(self._store, course.flight, end, self._settings.kept_s)
        self._collector.forget(bulk.id)
        counts = (bulk.total, bulk.completed, bulk.failed)
        log.info("batch_%s %s: %d lines, %d completed, %d failed", bulk.id, status, *counts)
        await self._storage.remove(f"bulks/{bulk.id}/plan")
