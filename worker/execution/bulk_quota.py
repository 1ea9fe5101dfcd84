"""Whether bulk jobs take the seats that interactive ones leave empty. Owns no clock.

Where the device is what a batch waits for, an empty seat is wasted, and bulk has it. Where runs are short, what a job
costs is the time of queue, gateway and worker, which callers need: while these stream, bulk has its share and no more.
"""

from typing import Final

from worker.execution.inline_runs import InlineRunPolicy

CLAIM_INTERVAL_S: Final = (
    0.01  # between two claims that leave bulk jobs waiting, unless the free seats are taken sooner
)
STREAM_JOBS: Final = (
    8  # interactive jobs in that time, or more: those of some sixteen callers, each waiting for an answer
)


class BulkSlotShare:
    """Decides for each claim of one model. Times in seconds, on the caller's clock."""

    def __init__(self, inline_policy: InlineRunPolicy, slots: int, share: int) -> None:
        """`share`: one seat in so many is bulk's in any case."""
        self._short_runs, self._slots, self._share = inline_policy, slots, share
        self._interactive_count, self._since, self._streams = 0, 0.0, False
        self._bulk_credit, self._counted_at = 0.0, 0.0

    def record_interactive(self, interactive: int) -> None:
        """Learn that so many interactive jobs were claimed or handed over."""
        self._interactive_count += interactive
        self._bulk_credit += interactive / max(1, self._share - 1)

    def bulk_limit(self, now: float) -> int | None:
        """Say how many bulk jobs the next claim may take; None: as many as find a seat."""
        self._look(now)
        self._bulk_credit += (now - self._counted_at) / CLAIM_INTERVAL_S * self._slots / self._share
        self._bulk_credit, self._counted_at = min(self._bulk_credit, float(self._slots)), now
        if self._streams and self._short_runs.is_usual and self._share > 1:
            return int(self._bulk_credit)
        return None

    def record_bulk(self, bulk: int) -> None:
        """Learn that so many bulk jobs were claimed."""
        self._bulk_credit = max(0.0, self._bulk_credit - bulk)

    def _look(self, now: float) -> None:
        rests = max(1.0, (now - self._since) / CLAIM_INTERVAL_S)
        if rests > 1 or self._interactive_count >= STREAM_JOBS:
            self._streams = self._interactive_count >= STREAM_JOBS * rests
            self._interactive_count, self._since = 0, now
