"""Records each batch that has run: its metrics, a line in the log, and its spans."""

import logging
import time
from typing import Any, Final

from jobs.config.logs import fields
from jobs.metrics.histograms import CLOSED, PADDING, SPLITS, WORK, HistogramBuffer
from worker.execution.batch_run import BatchRun
from worker.execution.job_spans import JobSpans

log = logging.getLogger("jitney.worker")

LINES_PER_SECOND: Final = 10  # of batches in the log; a line costs as much as running a small batch


class BatchRecorder:
    """The recorder of one model version."""

    def __init__(self, name: str, histogram_buffer: HistogramBuffer, spans: JobSpans | None) -> None:
        """Create a recorder. `name`: "<model> <version>"."""
        self._name, self._buffer, self._spans = name, histogram_buffer, spans
        self._second, self._lines = 0, 0
        self._unlogged_batches = self._unlogged_items = 0

    def record(self, run: BatchRun, reason: str, seconds: float) -> None:
        """Record a batch, what closed it, and its seconds."""
        buffer = self._buffer
        if run.batches:
            buffer.observe("size", [size for size, _ in run.batches])
            buffer.observe("infer", [infer_ms for _, infer_ms in run.batches])
        buffer.count(f"{CLOSED}:{reason}")
        buffer.count(WORK, run.work)
        if run.padding:
            buffer.count(PADDING, run.padding)
        if run.splits:
            buffer.count(SPLITS, run.splits)
        if log.isEnabledFor(logging.INFO):
            self._log(run, reason)
        if self._spans is not None:
            self._spans.ran(run, reason, seconds)

    def _log(self, run: BatchRun, reason: str) -> None:
        """Log a line, at most LINES_PER_SECOND unless a caller named a request of the batch or the level is debug."""
        second, count = int(time.monotonic()), len(run.items)
        if second != self._second:
            self._second, self._lines = second, 0
        requests = [*dict.fromkeys([o.request_id for i in run.items if (o := i.job.request_context) and o.request_id])]
        if self._lines >= LINES_PER_SECOND and not requests and not log.isEnabledFor(logging.DEBUG):
            self._unlogged_batches += 1
            self._unlogged_items += count
            return
        self._lines += 1
        details: dict[str, Any] = {
            "model": self._name.partition(" ")[0],
            "version": self._name.partition(" ")[2],
            "items": count,
            "closed": reason,
            "infer_ms": round(sum(infer_ms for _, infer_ms in run.batches), 3),
            "splits": run.splits or None,
            "request_ids": requests or None,
        }
        if self._unlogged_batches:
            details |= {"unlogged_batches": self._unlogged_batches, "unlogged_items": self._unlogged_items}
            self._unlogged_batches = self._unlogged_items = 0
        log.info("ran a batch", extra=fields(details))
