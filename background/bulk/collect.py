"""Writes the outcomes of a bulk job to storage in parts, and decides when a part is due."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from background.bulk import result_lines
from background.bulk.result_lines import RenderedLine
from jobs.bulk import checkpoints
from jobs.bulk.checkpoints import BulkSnapshot, ResultPart
from jobs.bulk.files import part_key
from jobs.bulk.records import Bulk
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage
from jobs.contract.errors import StoreUnavailable
from jobs.store import outputs
from jobs.store.background_lease import BackgroundLease
from jobs.store.job_store import JobStore
from jobs.store.outputs import OutputGone

MAX_LOG_BYTES: Final = 8 << 20  # of outcomes in one read
CHUNKS_PER_PART: Final = 4  # largest part, in chunks of outcomes
# Outcomes wait up to this share of the bulk job's age, so a long job does not get too many parts.
LATE_SHARE: Final = 0.005


class Collector:
    """Collects the outcomes of all bulk jobs of one process."""

    def __init__(self, settings: BulkSettings, store: JobStore, storage: Storage) -> None:
        self._settings, self._store, self._storage = settings, store, storage
        self._collected_at: dict[str, float] = {}

    def forget(self, bulk_id: str) -> None:
        """Drop the state of a bulk job that has ended."""
        self._collected_at.pop(bulk_id, None)

    async def collect(self, lease: BackgroundLease, snapshot: BulkSnapshot, *, is_last: bool = False) -> bool:
        """Store the oldest outcomes if a part is due, or always if `is_last`; returns whether any were stored.

        Raises RetryLater, LeaseLost.
        """
        bulk, s = snapshot.bulk, self._settings
        if not snapshot.waiting or not (is_last or self._is_part_due(snapshot)):
            return False
        outcomes = await checkpoints.read_outcomes(self._store, bulk, CHUNKS_PER_PART * s.bulk_chunk, MAX_LOG_BYTES)
        lines = await self._with_outputs(await asyncio.to_thread(_render, outcomes))
        part = await self._store_part(bulk, lines)
        expires_ms = snapshot.now_ms + (bulk.kept_s or s.bulk_ttl_s) * 1000
        lease_ms = int(s.bulk_step_lease_s * 1000)
        await checkpoints.record_collection(
            self._store, lease, lease_ms, bulk, part, expires_ms=expires_ms, kept_s=s.kept_s
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
                async for piece in outputs.read_chunks(self._store.connection, *line.chunked[:3]):
                    yield piece
            except OutputGone:  # since it was checked: the next try writes a failed line
                message = f"chunks of the output of {line.chunked.job_id} are gone"
                raise StoreUnavailable(message, retry_after_s=1) from None
        yield b"".join(texts)

    def _is_part_due(self, snapshot: BulkSnapshot) -> bool:
        """Return whether enough outcomes wait, the oldest have waited long enough, or no more will come."""
        bulk, s = snapshot.bulk, self._settings
        limit = max(1, s.bulk_in_flight // max(1, snapshot.open_bulks))
        if (
            snapshot.waiting >= min(s.bulk_chunk, max(1, limit // 4))
            or bulk.abort_reason
            or bulk.ended == bulk.expanded
        ):
            return True
        interval_s = max(s.bulk_collect_s, LATE_SHARE * (snapshot.now_ms - bulk.created_ms) / 1000)
        return time.monotonic() - self._collected_at.get(bulk.id, 0) >= interval_s


def _render(outcomes: list[bytes]) -> list[RenderedLine]:
    """Format outcomes, as many as have MAX_LOG_BYTES together, outputs in chunks included, but at least one."""
    lines: list[RenderedLine] = []
    left = MAX_LOG_BYTES
    for outcome in outcomes:
        line = result_lines.render_line(outcome)
        left -= line.log_bytes
        if lines and left < 0:
            break
        lines.append(line)
    return lines
