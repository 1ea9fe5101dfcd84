"""Turns the next lines of a bulk's file into jobs, or into what is wrong with them."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from jobs.admission import admit
from jobs.bulk.files import content_key
from jobs.bulk.lines import Asks, Bits, Line, lines_of, read_line
from jobs.bulk.records import Bulk
from jobs.bulk.settings import BulkSettings
from jobs.bulk.steps import Ends, job_id
from jobs.bulk.storage import Storage
from jobs.catalogue import Catalogue
from jobs.drafts import Draft, from_fields
from jobs.errors import JitneyError, NotNow, Refused, StoreUnavailable
from jobs.guard import Guard
from jobs.job import Submission
from worker.bulk.images import FIELDS, Images
from worker.bulk.results import OF_THE_BATCH
from worker.bulk.validating import Plan, duplicate

TURN: Final = 50  # lines that are read in a row; then others have their turn
MOST_BYTES: Final = 4 << 20  # of inputs in one chunk
NAMED_BYTES: Final = 256 << 10  # an image that is to be fetched counts as so many: all of a chunk are held at a time
NAMED: Final = tuple(f'"{field}"'.encode() for field in FIELDS)
STATES: Final = {"cancelled": "canceled", "expired": "expired"}


class Reader:
    """A bulk's file from a place on; it stays open while the next lines that are asked for are the next that it has."""

    def __init__(self, storage: Storage, settings: BulkSettings, bulk: Bulk, plan: Plan) -> None:
        self._plan, self._ahead = plan, list[Line]()
        self.place = (bulk.line, bulk.offset)
        blocks = storage.read(content_key(bulk.file), bulk.offset)
        self._lines = lines_of(blocks, settings.bulk_line_bytes, bulk.line, bulk.offset)

    async def aclose(self) -> None:
        """Close the file."""
        await self._lines.aclose()

    async def take(self, count: int) -> list[Line]:
        """Give the next wanted lines, fewer only at the end, or where they are large."""
        taken: list[Line] = []
        size = 0
        while len(taken) < count and size < MOST_BYTES:
            if not self._ahead:
                try:
                    found = await anext(self._lines)
                except StopAsyncIteration:
                    break
                self._ahead = [line for line in reversed(found) if self._plan.wants(line)]
                continue
            line = self._ahead.pop()
            taken.append(line)
            data = line.data or b""
            size += len(data) + (NAMED_BYTES if any(name in data for name in NAMED) else 0)
            self.place = (line.number, line.end)
        return taken


class Chunk(NamedTuple):
    """Some lines: those that are to be jobs, those that end as they are, and the bytes of all inputs by line."""

    jobs: list[Submission]
    ends: list[Ends]
    sizes: dict[int, int]

    @property
    def size(self) -> int:
        return sum(self.sizes.values())


class Maker:
    """Makes jobs of lines, by the rules of POST /v1/jobs."""

    def __init__(self, settings: BulkSettings, catalogue: Catalogue, guard: Guard, images: Images, shards: int) -> None:
        self._settings, self._catalogue, self._guard = settings, catalogue, guard
        self._images, self._shards = images, shards

    async def make(self, bulk: Bulk, plan: Plan, lines: Sequence[Line], ended: Bits, left_ms: int) -> Chunk:
        """Make a chunk; lines that have an outcome weigh what they weighed, and are not made again. Raises NotNow."""
        chunk = Chunk([], [], {})
        asked = [self._read(plan, line) for line in lines]
        fetched = await self._fetch(asked) if not bulk.walks_out else {}
        for nth, (line, asks) in enumerate(zip(lines, asked, strict=True)):
            line_id, is_open = job_id(bulk.id, line.number), line.number not in ended
            try:
                job = self._job(bulk, asks, line_id, left_ms, fetched.get(nth))
            except JitneyError as error:
                if isinstance(error, StoreUnavailable):
                    raise
                custom_id = None if error.code == "duplicate_custom_id" else asks.custom_id
                state = STATES.get(bulk.walks_out, "failed") if asks.error is None else "failed"
                chunk.ends.extend([Ends(line_id, custom_id, state, error)] if is_open else [])
            else:
                chunk.sizes[line.number] = len(job.input)
                chunk.jobs.extend([job] if is_open else [])
            if nth % TURN == TURN - 1:
                await asyncio.sleep(0)
        return chunk

    def _read(self, plan: Plan, line: Line) -> Asks:
        asks = read_line(line, self._settings.bulk_line_bytes)
        if line.number in plan.duplicates and asks.custom_id is not None:
            return asks._replace(error=duplicate(asks.custom_id))
        return asks

    async def _fetch(self, asked: Sequence[Asks]) -> dict[int, bytes | JitneyError]:
        """Fetch what these lines name, together; each for itself."""
        wanted = {nth: given for nth, asks in enumerate(asked) if (given := _named(asks)) is not None}
        found = await asyncio.gather(*map(self._images.fetch, wanted.values()), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, Refused):
                raise one
        return dict(zip(wanted, found, strict=True))  # type: ignore[arg-type]  # others were raised

    def _job(self, bulk: Bulk, asks: Asks, line_id: str, left_ms: int, image: bytes | JitneyError | None) -> Submission:
        if asks.error is not None:
            raise asks.error
        if bulk.walks_out:
            raise JitneyError(*OF_THE_BATCH[STATES[bulk.walks_out]])
        if isinstance(image, JitneyError):
            raise image
        job = admit(
            self._draft(asks, image)._replace(lane="bulk"),
            self._catalogue,
            self._guard,
            tenant=bulk.tenant,
            idempotency_key="",
            shards=self._shards,
            max_deadline_ms=max(1, left_ms),
        )
        return job._replace(id=line_id, bulk=asks.custom_id or "")

    def _draft(self, asks: Asks, image: bytes | None) -> Draft:
        if image is None:
            return from_fields(asks.body)
        return from_fields({**asks.body, "input": {"image": ""}})._replace(image=image)


def _named(asks: Asks) -> dict[str, Any] | None:
    """Give an input that names an image, where it is nothing else."""
    given = asks.body.get("input") if asks.error is None else None
    is_named = isinstance(given, dict) and len(given) == 1 and next(iter(given)) in FIELDS
    return given if is_named else None


def refused(verdicts: Sequence[object]) -> NotNow | None:
    """Give why the store takes no more, if so."""
    return next((one for one in verdicts if isinstance(one, NotNow)), None)
