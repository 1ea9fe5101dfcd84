"""Stores the outcomes of a bulk's log as parts of its results; decides when there are enough of them."""

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
from jobs.contract.background_lease import BackgroundLease
from jobs.store.job_store import JobStore

MAX_LOG_BYTES: Final = 8 << 20  # of outcomes that are read at a time
CHUNKS_PER_PART: Final = 4  # chunks of outcomes in one part, where so many wait
LATE_SHARE: Final = 0.005  # of a bulk's age: so long outcomes may wait for others, and a long night has fewer parts


class Collector:
    """Collects for all bulks of one process."""

    def __init__(self, settings: BulkSettings, store: JobStore, storage: Storage) -> None:
        self._settings, self._store, self._storage = settings, store, storage
        self._collected_at: dict[str, float] = {}

    def forget(self, bulk_id: str) -> None:
        """Keep nothing of a bulk that is over."""
        self._collected_at.pop(bulk_id, None)

    async def collect(self, lease: BackgroundLease, snapshot: BulkSnapshot, *, is_last: bool = False) -> bool:
        """Store the oldest outcomes, if it is time, or the bulk ends now; True where some were.

        Raises NotNow, Overtaken.
        """
        bulk, s = snapshot.bulk, self._settings
        if not snapshot.waiting or not (is_last or self._is_time(snapshot)):
            return False
        found = await checkpoints.read_outcomes(self._store, bulk, CHUNKS_PER_PART * s.bulk_chunk, MAX_LOG_BYTES)
        part = await self._store_part(bulk, found)
        expires_ms = snapshot.now_ms + (bulk.kept_s or s.bulk_ttl_s) * 1000
        lease_ms = int(s.bulk_step_lease_s * 1000)
        await checkpoints.record_collection(
            self._store, lease, lease_ms, bulk, part, expires_ms=expires_ms, kept_s=s.kept_s
        )
        self._collected_at[bulk.id] = time.monotonic()
        return True

    async def _store_part(self, bulk: Bulk, outcomes: list[bytes]) -> ResultPart:
        """Store a part under a name of its own: whoever comes second writes beside it, not over it."""
        name = f"{bulk.collected:010d}-{secrets.token_hex(4)}"
        shown = await asyncio.to_thread(lambda: [result_lines.render_line(outcome) for outcome in outcomes])
        sizes: list[int] = []
        counts: list[int] = []
        for kind, succeeded in (("out", True), ("err", False)):
            lines = [line.text for line in shown if line.succeeded is succeeded]
            place = part_key(bulk.id, kind, name)
            sizes.append(await self._storage.write(place, single_block(b"".join(lines))) if lines else 0)
            counts.append(len(lines))
        return ResultPart(name, len(outcomes), sum(line.log_bytes for line in shown), *sizes, *counts)

    def _is_time(self, snapshot: BulkSnapshot) -> bool:
        """Whether enough wait, or have waited for long enough, or nothing else is to come."""
        bulk, s = snapshot.bulk, self._settings
        most = max(1, s.bulk_in_flight // max(1, snapshot.open_bulks))
        if snapshot.waiting >= min(s.bulk_chunk, max(1, most // 4)) or bulk.abort_reason or bulk.ended == bulk.expanded:
            return True
        interval_s = max(s.bulk_collect_s, LATE_SHARE * (snapshot.now_ms - bulk.created_ms) / 1000)
        return time.monotonic() - self._collected_at.get(bulk.id, 0) >= interval_s
