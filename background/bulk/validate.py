"""Validates a bulk input file before any line runs; stores the line plan: duplicates, and lines to process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import orjson
import pybase64

from background.bulk.result_lines import reason_view
from jobs.bulk.files import content_key, part_key
from jobs.bulk.input_lines import Bitmap, Line, ParsedLine, read_line, split_lines
from jobs.bulk.records import Bulk
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage, single_block
from jobs.contract.errors import JitneyError, Refused, RetryLater, to_jitney_error
from jobs.models.catalog import ModelCatalog

log = logging.getLogger("jitney.background")

MAX_REASONS: Final = 100
Renew = Callable[[], Awaitable[object]]


class LinePlan(NamedTuple):
    """Lines that repeat a custom_id, and the lines to process (None = all)."""

    duplicates: Bitmap
    included: Bitmap | None

    def includes(self, line: Line) -> bool:
        return self.included is None or line.number in self.included


class ValidationResult(NamedTuple):
    """Number of included lines, number of good ones, and the first errors of the others."""

    total: int
    good: int
    reasons: list[dict[str, Any]]
    duplicates: Bitmap


async def validate(
    storage: Storage, settings: BulkSettings, catalog: ModelCatalog, bulk: Bulk, lines: Bitmap | None, *, renew: Renew
) -> ValidationResult:
    """Validate a file, or only some lines of it. Raises RetryLater, LeaseLost.

    `renew` renews the lease; it is called between blocks.
    """
    seen, duplicates = set[int](), Bitmap()
    total = good = 0
    reasons: list[dict[str, Any]] = []
    plan = LinePlan(duplicates, lines)
    async for block in split_lines(storage.read(content_key(bulk.file)), settings.bulk_line_bytes):
        for line in block:
            if line.number > settings.bulk_lines:
                message = f"a file may have at most {settings.bulk_lines} lines (JITNEY_BULK_LINES)"
                reason = reason_view(Refused("too_many_jobs", message), line.number)
                return ValidationResult(total, 0, [reason], duplicates)
            try:
                parsed = read_line(line, settings.bulk_line_bytes, bulk.endpoint)
                error = _check_line(parsed, line, catalog, seen, duplicates)
            except Exception as failure:
                log.exception("cannot check line %d of batch_%s", line.number, bulk.id)
                error = to_jitney_error(failure)
            if not plan.includes(line):
                continue
            total += 1
            if error is None:
                good += 1
            elif len(reasons) < MAX_REASONS:
                reasons.append(reason_view(error, line.number))
        await renew()
        await asyncio.sleep(0)
    return ValidationResult(total, good, reasons, duplicates)


def _check_line(
    parsed: ParsedLine, line: Line, catalog: ModelCatalog, seen: set[int], duplicates: Bitmap
) -> JitneyError | None:
    if parsed.custom_id is not None:
        custom_id_hash = hash(parsed.custom_id)
        if custom_id_hash in seen:
            duplicates.add(line.number)
            return duplicate_error(parsed.custom_id)
        seen.add(custom_id_hash)
    if parsed.error is not None:
        return parsed.error
    model = parsed.body.get("model", "")
    if not isinstance(model, str):
        return Refused("invalid_request", 'field "model" must be a string')
    try:
        with suppress(RetryLater):
            catalog.find(model)
    except Refused as error:
        return error
    return None


def duplicate_error(custom_id: str) -> Refused:
    """Return the error of a line whose custom_id an earlier line has."""
    return Refused("duplicate_custom_id", f"an earlier line has the custom_id {custom_id[:80]!r}", param="custom_id")


async def write_plan(storage: Storage, bulk: Bulk, plan: LinePlan) -> None:
    included = None if plan.included is None else pybase64.b64encode(bytes(plan.included)).decode()
    text = {"duplicates": pybase64.b64encode(bytes(plan.duplicates)).decode(), "wanted": included}
    await storage.write(part_key(bulk.id, "plan", "plan"), single_block(orjson.dumps(text)))


async def read_plan(storage: Storage, bulk: Bulk) -> LinePlan:
    """Read the line plan; raises RetryLater, and KeyError if it is gone."""
    plan = orjson.loads(b"".join([block async for block in storage.read(part_key(bulk.id, "plan", "plan"))]))
    included = None if plan["wanted"] is None else Bitmap(pybase64.b64decode(plan["wanted"]))
    return LinePlan(Bitmap(pybase64.b64decode(plan["duplicates"])), included)
