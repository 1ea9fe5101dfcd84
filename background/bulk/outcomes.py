"""Writes the outcomes of a bulk job to storage in parts, and ends the job; also the backoff of failed steps."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, NamedTuple

import orjson

from background.bulk import result_lines
from background.bulk.result_lines import RenderedLine, reason_view
from jobs.bulk import checkpoints
from jobs.bulk.checkpoints import BulkSnapshot, LeaseLost, ResultPart
from jobs.bulk.files import part_key
from jobs.bulk.records import Bulk, bulk_view
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.contract.errors import JitneyError, RetryLater, StoreUnavailable
from jobs.contract.job_view import format_timestamp
from jobs.redis_client.pipelined_connection import Arg
from jobs.store import outputs
from jobs.store.background_lease import BackgroundLease
from jobs.store.job_store import JobStore
from jobs.store.outputs import OutputGone

log = logging.getLogger("jitney.background")

MAX_LOG_BYTES: Final = 8 << 20  # of outcomes in one read
CHUNKS_PER_PART: Final = 4  # largest part, in chunks of outcomes
# Outcomes wait up to this share of the bulk job's age, so a long job does not get too many parts.
LATE_SHARE: Final = 0.005
MAX_BACKOFF_S: Final = 60.0  # longest pause before a failed step is retried
MAX_DOUBLINGS: Final = 10


class StepBackoff(NamedTuple):
    """Result of a step: seconds until the next, why the bulk job is stalled, whether the step failed unexpectedly."""

    after_s: float = 0.0
    stalled: str = ""
    is_fault: bool = False


def backoff_after(faults: int, first_s: float, fault: str) -> StepBackoff:
    """Return the backoff after an unexpected failure: `first_s`, doubled for each of `faults` earlier ones in a row."""
    after_s = min(MAX_BACKOFF_S, first_s * 2 ** min(faults, MAX_DOUBLINGS))
    stalled = f"a step failed unexpectedly ({fault}) and will be retried; see the log of `jitney background`"
    return StepBackoff(after_s, stalled, is_fault=True)


def overdue_s(snapshot: BulkSnapshot) -> float:
    """Return for how many seconds a bulk job is past its end (cancellation or expiry); negative before it."""
    bulk = snapshot.bulk
    due_ms = min(bulk.expires_ms, bulk.times.get("cancelling", bulk.expires_ms))
    return (snapshot.now_ms - due_ms) / 1000


class OutcomeWriter:
    """Stores the outcomes of all bulk jobs of one process, and ends these jobs."""

    def __init__(self, settings: BulkSettings, store: JobStore, storage: Storage) -> None:
        self._settings, self._store, self._storage = settings, store, storage
        self._lease_ms = int(settings.bulk_step_lease_s * 1000)
        self._collected_at: dict[str, float] = {}

    async def collect(self, lease: BackgroundLease, snapshot: BulkSnapshot, *, is_last: bool = False) -> bool:
        """Store the oldest outcomes if a part is due, or always if `is_last`; returns whether any were stored.

        Raises RetryLater, LeaseLost.
        """
        bulk, s = snapshot.bulk, self._settings
        if not snapshot.waiting or not (is_last or self._is_part_due(snapshot)):
            return False
        outcomes = await checkpoints.read_outcomes(self._store, bulk, CHUNKS_PER_PART * s.bulk_chunk, MAX_LOG_BYTES)
        lines = await self._with_outputs(await asyncio.to_thread(_render, outcomes, bulk.endpoint))
        part = await self._store_part(bulk, lines)
        expires_ms = snapshot.now_ms + (bulk.kept_s or s.bulk_ttl_s) * 1000
        await checkpoints.record_collection(
            self._store, lease, self._lease_ms, bulk, part, expires_ms=expires_ms, kept_s=s.kept_s
        )
        self._collected_at[bulk.id] = time.monotonic()
        with suppress(StoreUnavailable):  # then they expire
            for chunked in filter(None, (line.chunked for line in lines)):
                await outputs.drop_chunks(self._store.connection, chunked.job_id, chunked.attempt, chunked.chunks)
        return True

    async def _with_outputs(self, lines: list[RenderedLine]) -> list[RenderedLine]:
        """Return the lines, failed ones in place of those whose chunks were lost."""
        kept: list[RenderedLine] = []
        for line in lines:
            if line.chunked is not None and not await outputs.have_chunks(self._store.connection, *line.chunked[:3]):
                kept.append(RenderedLine(line.chunked.gone, succeeded=False, log_bytes=line.log_bytes))
            else:
                kept.append(line)
        return kept

    async def _store_part(self, bulk: Bulk, rendered: list[RenderedLine]) -> ResultPart:
        """Store a part under a unique name, so that a second writer does not overwrite the first one's part."""
        name = f"{bulk.collected:010d}-{secrets.token_hex(4)}"
        sizes: list[int] = []
        counts: list[int] = []
        for kind, succeeded in (("out", True), ("err", False)):
            lines = [line for line in rendered if line.succeeded is succeeded]
            key = part_key(bulk.id, kind, name)
            sizes.append(await self._storage.write(key, self._blocks(lines)) if lines else 0)
            counts.append(len(lines))
        return ResultPart(name, len(rendered), sum(line.log_bytes for line in rendered), *sizes, *counts)

    async def _blocks(self, lines: list[RenderedLine]) -> AsyncIterator[bytes]:
        """Yield the text of lines; an output in chunks is read chunk by chunk. Raises RetryLater."""
        texts: list[bytes] = []
        for line in lines:
            texts.append(line.text)
            if line.chunked is None:
                continue
            yield b"".join(texts)
            texts = [line.chunked.tail]
            try:
                pieces = outputs.read_chunks(self._store.connection, *line.chunked[:3])
                if line.chunked.convert is not None:
                    yield await asyncio.to_thread(line.chunked.convert, b"".join([piece async for piece in pieces]))
                    continue
                async for piece in pieces:
                    yield piece
            except OutputGone:  # since it was checked: the next try writes a failed line
                message = f"chunks of the output of {line.chunked.job_id} are gone"
                raise StoreUnavailable(message, retry_after_s=1) from None
        yield b"".join(texts)

    def _is_part_due(self, snapshot: BulkSnapshot) -> bool:
        """Return whether enough outcomes wait, the oldest have waited long enough, or no more will come."""
        bulk, s = snapshot.bulk, self._settings
        limit = max(1, s.bulk_in_flight // max(1, snapshot.open_bulks))
        enough = min(s.bulk_chunk, max(1, limit // 4))
        if snapshot.waiting >= enough or bulk.abort_reason or bulk.ended == bulk.expanded:
            return True
        interval_s = max(s.bulk_collect_s, LATE_SHARE * (snapshot.now_ms - bulk.created_ms) / 1000)
        return time.monotonic() - self._collected_at.get(bulk.id, 0) >= interval_s

    async def close(self, lease: BackgroundLease, bulk: Bulk, status: str, now_ms: int) -> None:
        """End a bulk job and queue its webhook; raises LeaseLost, StoreUnavailable."""
        fields: dict[str, Arg] = {f"{status}_ms": now_ms}
        if bulk.errors:
            fields |= {"errors": bulk.errors, "total": bulk.total}
        if status == "completed":
            fields["finalizing_ms"] = now_ms
        times = {**bulk.times, **{name.removesuffix("_ms"): now_ms for name in fields if name.endswith("_ms")}}
        view = bulk_view(bulk._replace(status=status, times=times, stalled=""))  # type: ignore[arg-type]
        message = {"type": f"batch.{status}", "timestamp": format_timestamp(now_ms * 1000), "data": view}
        end = checkpoints.BulkCompletion(status, bulk.webhook, orjson.dumps(message), fields)
        await checkpoints.close_bulk(self._store, lease, end, self._settings.kept_s)
        self._collected_at.pop(bulk.id, None)
        counts = (bulk.total, bulk.completed, bulk.failed)
        log.info("batch_%s %s: %d lines, %d completed, %d failed", bulk.id, status, *counts)
        with suppress(RetryLater):
            await self._storage.remove(f"bulks/{bulk.id}/plan")

    async def abort(self, lease: BackgroundLease, snapshot: BulkSnapshot, error: JitneyError) -> None:
        """End a bulk job that cannot go on, and record `error`: cancelled or expired if overdue, else failed.

        Stores the outcomes collected so far if possible. Raises LeaseLost, StoreUnavailable.
        """
        snapshot = await self._store_outcomes(lease, snapshot)
        bulk = snapshot.bulk
        status = "failed"
        if overdue_s(snapshot) >= 0:
            status = "cancelled" if bulk.status == "cancelling" else "expired"
        errors = orjson.dumps({"object": "list", "data": [reason_view(error)]})
        log.warning("batch_%s cannot go on and ends as %s: %s", bulk.id, status, error.message)
        await self.close(lease, bulk._replace(errors=errors), status, snapshot.now_ms)

    async def _store_outcomes(self, lease: BackgroundLease, snapshot: BulkSnapshot) -> BulkSnapshot:
        try:
            while await self.collect(lease, snapshot, is_last=True):
                snapshot = await checkpoints.begin_step(self._store, lease, self._lease_ms)
        except (LeaseLost, StoreUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 (the bulk job ends all the same, and records the reason)
            log.warning("cannot store the last outcomes of batch_%s: %s", snapshot.bulk.id, error)
        return snapshot


def _render(outcomes: list[bytes], endpoint: str) -> list[RenderedLine]:
    """Format outcomes, as many as have MAX_LOG_BYTES together, outputs in chunks included, but at least one."""
    lines: list[RenderedLine] = []
    left = MAX_LOG_BYTES
    for outcome in outcomes:
        line = result_lines.render_line(outcome, endpoint)
        left -= line.log_bytes
        if lines and left < 0:
            break
        lines.append(line)
    return lines
