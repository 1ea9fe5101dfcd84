"""Reads the next lines of a bulk input file and builds their jobs or error outcomes; `step_runner` submits them."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from background.bulk.image_fetch import IMAGE_REFERENCE_FIELDS, ImageFetcher
from background.bulk.result_lines import BATCH_ERRORS
from background.bulk.validate import LinePlan, duplicate_error
from jobs.bulk.checkpoints import LineFailure, job_id, line_number
from jobs.bulk.files import content_key
from jobs.bulk.input_lines import Bitmap, Line, ParsedLine, read_line, split_lines
from jobs.bulk.records import Bulk
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.contract.address_policy import AddressPolicy
from jobs.contract.errors import JitneyError, RetryLater, StoreUnavailable, to_jitney_error
from jobs.contract.job import Submission
from jobs.contract.job_request import read_json_fields
from jobs.models.catalog import ModelCatalog
from jobs.store.admission import admit

log = logging.getLogger("jitney.background")

LINES_PER_YIELD: Final = 50  # lines read between two yields to the event loop
MAX_CHUNK_BYTES: Final = 4 << 20  # of inputs in one chunk
REFERENCED_IMAGE_BYTES: Final = 256 << 10  # assumed size of an image to fetch: a chunk's images are in memory at once
IMAGE_FIELD_TOKENS: Final = tuple(f'"{field}"'.encode() for field in IMAGE_REFERENCE_FIELDS)
STATE_BY_ABORT_REASON: Final = {"cancelled": "canceled", "expired": "expired"}


class LineReader:
    """Reads a bulk input file from a given place; keeps the file open for consecutive reads."""

    def __init__(self, storage: Storage, settings: BulkSettings, bulk: Bulk, plan: LinePlan) -> None:
        self.plan, self._ahead = plan, list[Line]()
        self.place = (bulk.line, bulk.offset)
        blocks = storage.read(content_key(bulk.file), bulk.offset)
        self._lines = split_lines(blocks, settings.bulk_line_bytes, bulk.line, bulk.offset)

    async def aclose(self) -> None:
        await self._lines.aclose()

    async def take(self, count: int) -> list[Line]:
        """Return the next `count` included lines; fewer at the end of the file, or if they exceed MAX_CHUNK_BYTES."""
        taken: list[Line] = []
        size = 0
        while len(taken) < count and size < MAX_CHUNK_BYTES:
            if not self._ahead:
                try:
                    block = await anext(self._lines)
                except StopAsyncIteration:
                    break
                self._ahead = [line for line in reversed(block) if self.plan.includes(line)]
                continue
            line = self._ahead.pop()
            taken.append(line)
            data = line.data or b""
            size += len(data) + (REFERENCED_IMAGE_BYTES if any(name in data for name in IMAGE_FIELD_TOKENS) else 0)
            self.place = (line.number, line.end)
        return taken


class Chunk(NamedTuple):
    """A chunk of lines: jobs to submit, lines that end without a job, and input sizes by line number."""

    jobs: list[Submission]
    ends: list[LineFailure]
    sizes: dict[int, int]

    @property
    def size(self) -> int:
        return sum(self.sizes.values())

    def end(self, job: Submission, error: JitneyError) -> None:
        """Record that the store refused this line's job for good: the line ends with the error."""
        self.ends.append(LineFailure(job.id, job.bulk or None, "failed", error))
        self.sizes.pop(line_number(job.id), None)


class JobBuilder:
    """Builds jobs from lines, by the rules of POST /v1/jobs."""

    def __init__(
        self, settings: BulkSettings, catalog: ModelCatalog, policy: AddressPolicy, images: ImageFetcher, shards: int
    ) -> None:
        self._settings, self._catalog, self._policy = settings, catalog, policy
        self._images, self._shards = images, shards

    async def make(self, bulk: Bulk, plan: LinePlan, lines: Sequence[Line], ended: Bitmap, left_ms: int) -> Chunk:
        """Build a chunk; lines that already have an outcome count with their size only. Raises RetryLater."""
        chunk = Chunk([], [], {})
        images = await self._fetch(bulk, plan, lines) if not bulk.abort_reason else {}
        for nth, line in enumerate(lines):
            line_id, is_open = job_id(bulk.id, line.number), line.number not in ended
            parsed = ParsedLine(None, {})  # only one at a time: parsed JSON is many times the size of its text
            try:
                parsed = self._read(bulk, plan, line)
                job = self._job(bulk, parsed, line_id, left_ms, images.get(nth))
            except StoreUnavailable:
                raise
            except Exception as failure:
                if (error := to_jitney_error(failure)) is not failure:
                    log.exception("line %d of batch_%s failed unexpectedly", line.number, bulk.id)
                custom_id = None if error.code == "duplicate_custom_id" else parsed.custom_id
                state = STATE_BY_ABORT_REASON.get(bulk.abort_reason, "failed") if parsed.error is None else "failed"
                chunk.ends.extend([LineFailure(line_id, custom_id, state, error)] if is_open else [])
            else:
                chunk.sizes[line.number] = len(job.input)
                chunk.jobs.extend([job] if is_open else [])
            if nth % LINES_PER_YIELD == LINES_PER_YIELD - 1:
                await asyncio.sleep(0)
        return chunk

    def _read(self, bulk: Bulk, plan: LinePlan, line: Line) -> ParsedLine:
        parsed = read_line(line, self._settings.bulk_line_bytes, bulk.endpoint)
        if line.number in plan.duplicates and parsed.custom_id is not None:
            return parsed._replace(error=duplicate_error(parsed.custom_id))
        return parsed

    async def _fetch(self, bulk: Bulk, plan: LinePlan, lines: Sequence[Line]) -> dict[int, bytes | JitneyError]:
        """Fetch the images of these lines concurrently; returns them by index of their line. Raises RetryLater."""
        references = {
            nth: reference
            for nth, line in enumerate(lines)
            if _may_reference_image(line) and (reference := _image_reference(self._read(bulk, plan, line))) is not None
        }
        images = await asyncio.gather(*map(self._images.fetch, references.values()), return_exceptions=True)
        return {nth: _image_or_error(image) for nth, image in zip(references, images, strict=True)}

    def _job(
        self, bulk: Bulk, parsed: ParsedLine, line_id: str, left_ms: int, image: bytes | JitneyError | None
    ) -> Submission:
        if parsed.error is not None:
            raise parsed.error
        if bulk.abort_reason:
            raise JitneyError(*BATCH_ERRORS[STATE_BY_ABORT_REASON[bulk.abort_reason]])
        if isinstance(image, JitneyError):
            raise image
        fields = parsed.body if image is None else {**parsed.body, "input": {"image": ""}}
        request = read_json_fields(fields)
        left_ms = max(1, left_ms)
        # No line outlives its bulk job, and a line may request a later deadline.
        if request.deadline_ms is not None:
            request = request._replace(deadline_ms=max(1, min(request.deadline_ms, left_ms)))
        request = request._replace(lane="bulk", image=request.image if image is None else image)
        catalog, policy, shards = self._catalog, self._policy, self._shards
        job = admit(
            request, catalog, policy, tenant=bulk.tenant, idempotency_key="", shards=shards, max_deadline_ms=left_ms
        )
        return job._replace(id=line_id, bulk=parsed.custom_id or "")


def _may_reference_image(line: Line) -> bool:
    """Return whether a line may name an image. Looks at its bytes, where a field name may be escaped."""
    data = line.data or b""
    return b"\\u" in data or any(name in data for name in IMAGE_FIELD_TOKENS)


def _image_or_error(image: bytes | BaseException) -> bytes | JitneyError:
    """Return the image, or the error of its line; raises errors that concern all lines."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, RetryLater) or not isinstance(image, Exception):
        raise image
    if not isinstance(image, JitneyError):
        log.error("cannot fetch the image of a bulk line", exc_info=image)
    return to_jitney_error(image)


def _image_reference(parsed: ParsedLine) -> dict[str, Any] | None:
    """Return the line's input if it is an image reference and nothing else."""
    reference = parsed.body.get("input") if parsed.error is None else None
    if isinstance(reference, dict) and len(reference) == 1 and next(iter(reference)) in IMAGE_REFERENCE_FIELDS:
        return reference
    return None
