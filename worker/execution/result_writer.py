"""Writes job outcomes to the store: all that are ready in one write, while the next batch runs.

Large outputs are written in chunks first, beside the other outcomes.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from operator import add

from jobs.contract.errors import StoreUnavailable
from jobs.metrics.histograms import HistogramBuffer
from jobs.store.job_store import JobStore
from jobs.store.outputs import OutputWriter
from worker.execution.pending_items import CompletedItem, PendingItems

log = logging.getLogger("jitney.worker")

OUTAGE_PAUSE_S = 0.2
MAX_UNWRITTEN_BYTES = 64 << 20  # of one model's outputs: no more are encoded meanwhile


class ResultWriter:
    """Writes the outcomes of one model version. While Redis is away, outcomes are kept until their leases end."""

    def __init__(
        self,
        store: JobStore,
        worker_id: str,
        pending: PendingItems,
        histogram_buffer: HistogramBuffer,
        *,
        backlog: int,
        output_writer: OutputWriter,
    ) -> None:
        self._store, self._worker_id, self._pending = store, worker_id, pending
        self._histogram_buffer, self._backlog, self._output_writer = histogram_buffer, backlog, output_writer
        self._ready: list[CompletedItem] = []
        self._large: dict[asyncio.Task[None], int] = {}  # large outputs that are being written, with their bytes
        self._added, self._written = asyncio.Event(), asyncio.Event()

    def add(self, completed: Sequence[CompletedItem]) -> None:
        """Add outcomes, to be written in the background. A job of several rows ends with the first outcome of a row."""
        if any(end.item.joiner for end in completed):
            completed = [end for end in completed if end.item.end()]
            for end in completed:
                if end.item.joiner:
                    self._pending.withdraw(end.item.job)
        self._add(completed)

    def _add(self, completed: Sequence[CompletedItem]) -> None:
        if large := [end for end in completed if end.outcome.chunks]:
            completed = [end for end in completed if not end.outcome.chunks]
        for end in large:
            task = asyncio.create_task(self._write_large(end))
            self._large[task] = sum(map(len, end.outcome.chunks))
            task.add_done_callback(self._on_large_written)
        if completed:
            self._ready += completed
            self._added.set()

    async def wait_for_room(self) -> None:
        """Wait while too many outcomes, or bytes, are unwritten: running more batches would only add to them."""
        while len(self._ready) + len(self._large) > self._backlog or self._unwritten_bytes() > MAX_UNWRITTEN_BYTES:
            self._written.clear()
            await self._written.wait()

    def _unwritten_bytes(self) -> int:
        return sum(self._large.values()) + sum(len(end.outcome.body) for end in self._ready)

    async def _write_large(self, end: CompletedItem) -> None:
        """Write the chunks of a large output, then add its outcome to the ready ones, unless it is no longer needed."""
        try:
            outcome = await self._output_writer.write(end.outcome, lambda: self._pending.is_running(end.item))
        except StoreUnavailable as error:
            log.warning("dropped the output of job %s: %s", end.item.job.id, error)
            outcome = None
        if outcome is None:
            self._pending.discard([end.item.job])
            return
        if outcome.chunk_count == 0:
            log.warning("job %s fails: Redis has no memory for its output", end.item.job.id)
        self._add([CompletedItem(end.item, outcome)])

    def _on_large_written(self, task: asyncio.Task[None]) -> None:
        del self._large[task]
        self._written.set()

    async def run(self) -> None:
        """Write outcomes until cancelled."""
        while True:
            self._added.clear()
            if not self._ready:
                await self._added.wait()
            await self._write_ready()
            self._written.set()

    async def _write_ready(self) -> None:
        """Write the ready outcomes. A function of its own, so that large outcomes are freed before the next wait."""
        completed, self._ready = self._ready, []
        await self._write(completed)
        self._pending.discard([end.item.job for end in completed])
        self._count(completed)

    async def _write(self, completed: Sequence[CompletedItem]) -> None:
        give_up_at = time.monotonic() + self._store.settings.lease_s
        while True:
            try:
                refused = await self._store.finish(self._worker_id, [end.outcome for end in completed])
            except StoreUnavailable as error:
                if time.monotonic() > give_up_at:
                    log.warning("dropped %d results, because their leases have ended: %s", len(completed), error)
                    return
                await asyncio.sleep(OUTAGE_PAUSE_S)
                continue
            if refused:
                log.warning(
                    "%d of %d results came too late: their jobs were canceled, expired or reclaimed",
                    refused,
                    len(completed),
                )
            return

    def _count(self, completed: Sequence[CompletedItem]) -> None:
        now, observe = time.monotonic(), self._histogram_buffer.observe
        queued_ms = [(item.job.claimed_us - item.job.created_us) / 1000 for item, _ in completed]
        observe("queue", queued_ms)
        observe("decode", [outcome.decode_ms for _, outcome in completed])
        held_ms = [(now - item.claimed_at) * 1000 for item, _ in completed]
        observe("total", [*map(add, queued_ms, held_ms)])
        observe("batch", [outcome.batch_ms for _, outcome in completed if outcome.batch_size])
        count_run = self._store.usage.count_run
        for item, outcome in completed:
            if size := outcome.batch_size:
                device_ms = item.joiner.device_ms if item.joiner else outcome.infer_ms / size
                count_run(item.job.tenant, outcome.chunked_bytes or len(outcome.body), device_ms)
