"""Writes the outcomes of a bulk job to storage in parts, and decides when a part is due."""

import asyncio
import secrets
import time
from typing import Final

from background.bulk import result_lines
from jobs.bulk import checkpoints
from jobs.bulk.checkpoints import BulkSnapshot, ResultPart
from jobs.bulk.files import part_key
from jobs.bulk.records import Bulk
from jobs.bulk.settings import BulkSettings
from jobs.bulk.storage import Storage, single_block
from jobs.store.background_lease import BackgroundLease
from jobs.store.job_store import JobStore

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
        part = await self._store_part(bulk, outcomes)
        expires_ms = snapshot.now_ms + (bulk.kept_s or s.bulk_ttl_s) * 1000
        lease_ms = int(s.bulk_step_lease_s * 1000)
        await checkpoints.record_collection(
            self._store, lease, lease_ms, bulk, part, expires_ms=expires_ms, kept_s=s.kept_s
        )
        self._collected_at[bulk.id] = time.monotonic()
        return True

    async def _store_part(self, bulk: Bulk, outcomes: list[bytes]) -> ResultPart:
        """Store a part under a unique name, so that a second writer does not overwrite the first one's part."""
        name = f"{bulk.collected:010d}-{secrets.token_hex(4)}"
        rendered = await asyncio.to_thread(lambda: [result_lines.render_line(outcome) for outcome in outcomes])
        sizes: list[int] = []
        counts: list[int] = []
        for kind, succeeded in (("out", True), ("err", False)):
            lines = [line.text for line in rendered if line.succeeded is succeeded]
            key = part_key(bulk.id, kind, name)
            sizes.append(await self._storage.write(key, single_block(b"".join(lines))) if lines else 0)
            counts.append(len(lines))
        return ResultPart(name, len(outcomes), sum(line.log_bytes for line in rendered), *sizes, *counts)

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
