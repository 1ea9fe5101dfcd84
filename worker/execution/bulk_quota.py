"""Decides how many free slots bulk jobs may use while interactive jobs stream in. Owns no clock.

If a batch waits for the device, bulk jobs fill every empty slot. If runs are short, the cost of a job is the time of
queue, gateway and worker, which interactive jobs need: while they stream, bulk jobs get only their share.
"""

from typing import Final

from worker.execution.inline_runs import InlineRunPolicy

CLAIM_INTERVAL_S: Final = 0.01  # between two claims that leave bulk jobs waiting, unless the free slots fill earlier
STREAM_JOBS: Final = 8  # interactive jobs per interval that make a stream: about sixteen waiting callers


class BulkSlotShare:
    """The bulk limit of one model's claims. Times in seconds, on the caller's clock."""

    def __init__(self, inline_policy: InlineRunPolicy, slots: int, share: int) -> None:
        """Create a quota. `share`: one slot in `share` is always for bulk jobs."""
        self._inline_policy, self._slots, self._share = inline_policy, slots, share
        self._interactive_count, self._since, self._is_streaming = 0, 0.0, False
        self._bulk_credit, self._counted_at = 0.0, 0.0

    def record_interactive(self, count: int) -> None:
        """Record interactive jobs that were claimed or handed over."""
        self._interactive_count += count
        self._bulk_credit += count / max(1, self._share - 1)

    def bulk_limit(self, now: float) -> int | None:
        """Return how many bulk jobs the next claim may take; None: as many as there are free slots."""
        self._detect_stream(now)
        self._bulk_credit += (now - self._counted_at) / CLAIM_INTERVAL_S * self._slots / self._share
        self._bulk_credit, self._counted_at = min(self._bulk_credit, float(self._slots)), now
        if self._is_streaming and self._inline_policy.is_usual and self._share > 1:
            return int(self._bulk_credit)
        return None

    def record_bulk(self, count: int) -> None:
        """Record bulk jobs that were claimed."""
        self._bulk_credit = max(0.0, self._bulk_credit - count)

    def _detect_stream(self, now: float) -> None:
        intervals = max(1.0, (now - self._since) / CLAIM_INTERVAL_S)
        if intervals > 1 or self._interactive_count >= STREAM_JOBS:
            self._is_streaming = self._interactive_count >= STREAM_JOBS * intervals
            self._interactive_count, self._since = 0, now
