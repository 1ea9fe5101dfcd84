"""Reads a bulk's whole file once, before anything is run: how many lines, which repeat another, whether any will do."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import orjson
import pybase64

from jobs.bulk.files import content_key, part_key
from jobs.bulk.input_lines import Bits, Line, lines_of, read_line
from jobs.bulk.records import Bulk
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage, one
from jobs.contract.errors import JitneyError, NotNow, Refused, contain
from jobs.models.catalog import Catalogue

log = logging.getLogger("jitney.deliver")

MOST_REASONS: Final = 100


class Plan(NamedTuple):
    """What the file's lines are: those that repeat a custom_id, and those that are wanted (None = all)."""

    duplicates: Bits
    wanted: Bits | None

    def wants(self, line: Line) -> bool:
        return self.wanted is None or line.number in self.wanted


class Findings(NamedTuple):
    """What a whole file is: its lines that count, how many of them will do, and the first reasons why others do not."""

    total: int
    good: int
    reasons: list[dict[str, Any]]
    duplicates: Bits


async def validate(
    storage: Storage,
    settings: BulkSettings,
    catalogue: Catalogue,
    bulk: Bulk,
    *,
    wanted: Bits | None,
    go_on: Callable[[], Awaitable[object]],
) -> Findings:
    """Read the file; `go_on` is called now and then. Raises NotNow, Overtaken."""
    seen, duplicates = set[int](), Bits()
    total = good = 0
    reasons: list[dict[str, Any]] = []
    plan = Plan(duplicates, wanted)
    async for lines in lines_of(storage.read(content_key(bulk.file)), settings.bulk_line_bytes):
        for line in lines:
            if line.number > settings.bulk_lines:
                reason = _reason(Refused("too_many_jobs", f"a file may have {settings.bulk_lines} lines"), line.number)
                return Findings(total, 0, [reason], duplicates)
            try:
                error = _fault(line, settings, catalogue, seen, duplicates)
            except Exception as failure:
                log.exception("line %d of batch_%s cannot be checked", line.number, bulk.id)
                error = contain(failure)
            if not plan.wants(line):
                continue
            total += 1
            if error is None:
                good += 1
            elif len(reasons) < MOST_REASONS:
                reasons.append(_reason(error, line.number))
        await go_on()
        await asyncio.sleep(0)
    return Findings(total, good, reasons, duplicates)


def _fault(
    line: Line, settings: BulkSettings, catalogue: Catalogue, seen: set[int], duplicates: Bits
) -> JitneyError | None:
    asks = read_line(line, settings.bulk_line_bytes)
    if asks.custom_id is not None:
        known = hash(asks.custom_id)
        if known in seen:
            duplicates.add(line.number)
            return duplicate(asks.custom_id)
        seen.add(known)
    if asks.error is not None:
        return asks.error
    model = asks.body.get("model", "")
    if not isinstance(model, str):
        return Refused("invalid_request", 'field "model" must be a string')
    try:
        catalogue.find(model)
    except NotNow:
        return None
    except Refused as error:
        return error
    return None


def duplicate(custom_id: str) -> Refused:
    """Say that another line has this custom_id."""
    return Refused("duplicate_custom_id", f"an earlier line has the custom_id {custom_id[:80]!r}", param="custom_id")


def _reason(error: JitneyError, number: int) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "param": error.details.get("param"), "line": number}


async def keep_plan(storage: Storage, bulk: Bulk, plan: Plan) -> None:
    """Store what was found out about the lines."""
    wanted = None if plan.wanted is None else pybase64.b64encode(bytes(plan.wanted)).decode()
    text = {"duplicates": pybase64.b64encode(bytes(plan.duplicates)).decode(), "wanted": wanted}
    await storage.write(part_key(bulk.id, "plan", "plan"), one(orjson.dumps(text)))


async def read_plan(storage: Storage, bulk: Bulk) -> Plan:
    """Read it again; raises NotNow, KeyError."""
    text = b"".join([block async for block in storage.read(part_key(bulk.id, "plan", "plan"))])
    plan = orjson.loads(text)
    wanted = None if plan["wanted"] is None else Bits(pybase64.b64decode(plan["wanted"]))
    return Plan(Bits(pybase64.b64decode(plan["duplicates"])), wanted)
