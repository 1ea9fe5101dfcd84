"""Turns the next lines of a bulk's file into jobs, or into what is wrong with them."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from background.bulk.image_fetch import FIELDS, Images
from background.bulk.result_lines import OF_THE_BATCH
from background.bulk.validate import Plan, duplicate
from jobs.bulk.checkpoints import Ends, job_id, number_of
from jobs.bulk.files import content_key
from jobs.bulk.input_lines import Asks, Bits, Line, lines_of, read_line
from jobs.bulk.records import Bulk
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.contract.address_policy import Guard
from jobs.contract.errors import JitneyError, NotNow, StoreUnavailable, contain
from jobs.contract.job import Submission
from jobs.contract.job_request import Draft, from_fields
from jobs.models.catalog import Catalogue
from jobs.store.admission import admit

log = logging.getLogger("jitney.deliver")

TURN: Final = 50  # lines that are read in a row; then others have their turn
MOST_BYTES: Final = 4 << 20  # of inputs in one chunk
NAMED_BYTES: Final = 256 << 10  # an image that is to be fetched counts as so many: all of a chunk are held at a time
NAMED: Final = tuple(f'"{field}"'.encode() for field in FIELDS)
STATES: Final = {"cancelled": "canceled", "expired": "expired"}


class Reader:
    """A bulk's file from a place on; it stays open while the next lines that are asked for are the next that it has."""

    def __init__(self, storage: Storage, settings: BulkSettings, bulk: Bulk, plan: Plan) -> None:
        self.plan, self._ahead = plan, list[Line]()
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
                self._ahead = [line for line in reversed(found) if self.plan.wants(line)]
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

    def end(self, job: Submission, error: JitneyError) -> None:
        """Note that the store takes this line's job never: the line ends with that error."""
        self.ends.append(Ends(job.id, job.bulk or None, "failed", error))
        self.sizes.pop(number_of(job.id), None)


class Maker:
    """Makes jobs of lines, by the rules of POST /v1/jobs."""

    def __init__(self, settings: BulkSettings, catalogue: Catalogue, guard: Guard, images: Images, shards: int) -> None:
        self._settings, self._catalogue, self._guard = settings, catalogue, guard
        self._images, self._shards = images, shards

    async def make(self, bulk: Bulk, plan: Plan, lines: Sequence[Line], ended: Bits, left_ms: int) -> Chunk:
        """Make a chunk; lines that have an outcome weigh what they weighed, and are not made again. Raises NotNow."""
        chunk = Chunk([], [], {})
        fetched = await self._fetch(plan, lines) if not bulk.walks_out else {}
        for nth, line in enumerate(lines):
            line_id, is_open = job_id(bulk.id, line.number), line.number not in ended
            asks = Asks(None, {})  # read one line at a time: what JSON is read into takes many times its bytes
            try:
                asks = self._read(plan, line)
                job = self._job(bulk, asks, line_id, left_ms, fetched.get(nth))
            except StoreUnavailable:
                raise
            except Exception as failure:
                if (error := contain(failure)) is not failure:
                    log.exception("line %d of batch_%s failed unexpectedly", line.number, bulk.id)
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

    async def _fetch(self, plan: Plan, lines: Sequence[Line]) -> dict[int, bytes | JitneyError]:
        """Fetch the images that these lines name, together; gives each by its line's place. Raises NotNow."""
        wanted = {
            nth: given
            for nth, line in enumerate(lines)
            if _may_name(line) and (given := _named(self._read(plan, line))) is not None
        }
        found = await asyncio.gather(*map(self._images.fetch, wanted.values()), return_exceptions=True)
        return {nth: _of_line(one) for nth, one in zip(wanted, found, strict=True)}

    def _job(self, bulk: Bulk, asks: Asks, line_id: str, left_ms: int, image: bytes | JitneyError | None) -> Submission:
        if asks.error is not None:
            raise asks.error
        if bulk.walks_out:
            raise JitneyError(*OF_THE_BATCH[STATES[bulk.walks_out]])
        if isinstance(image, JitneyError):
            raise image
        draft = self._draft(asks, image)
        if draft.deadline_ms is not None:  # no line outlives its batch, and a job may ask for more than is left of it
            draft = draft._replace(deadline_ms=max(1, min(draft.deadline_ms, left_ms)))
        job = admit(
            draft._replace(lane="bulk"),
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


def _may_name(line: Line) -> bool:
    """Whether a line may name an image: told by its bytes, of which a field's name may be escaped."""
    data = line.data or b""
    return b"\\u" in data or any(name in data for name in NAMED)


def _of_line(found: bytes | BaseException) -> bytes | JitneyError:
    """Give what became of one line's image: its bytes, or its own error. Raises what concerns all lines."""
    if isinstance(found, bytes):
        return found
    if isinstance(found, NotNow) or not isinstance(found, Exception):
        raise found
    if not isinstance(found, JitneyError):
        log.error("an image that a line names cannot be fetched", exc_info=found)
    return contain(found)


def _named(asks: Asks) -> dict[str, Any] | None:
    """Give an input that names an image, where it is nothing else."""
    given = asks.body.get("input") if asks.error is None else None
    is_named = isinstance(given, dict) and len(given) == 1 and next(iter(given)) in FIELDS
    return given if is_named else None


def refused(verdicts: Sequence[object]) -> NotNow | None:
    """Give why the store takes no more at present, if so."""
    return next((one for one in verdicts if isinstance(one, NotNow)), None)
