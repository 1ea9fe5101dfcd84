"""Whether bulk jobs take the seats that interactive ones leave empty. Owns no clock.

Where the device is what a batch waits for, an empty seat is wasted, and bulk has it. Where runs are short, what a job
costs is the time of queue, gateway and worker, which callers need: while these stream, bulk has its share and no more.
"""

from typing import Final

from worker.execution.inline_runs import ShortRuns

REST_S: Final = 0.01  # between two claims that leave bulk jobs waiting, unless the free seats are taken sooner
STREAM: Final = 8  # interactive jobs in that time, or more: those of some sixteen callers, each waiting for an answer


class BulkSeats:
    """Decides for each claim of one model. Times in seconds, on the caller's clock."""

    def __init__(self, short_runs: ShortRuns, seats: int, share: int) -> None:
        """`share`: one seat in so many is bulk's in any case."""
        self._short_runs, self._seats, self._share = short_runs, seats, share
        self._came, self._since, self._streams = 0, 0.0, False
        self._owed, self._counted_at = 0.0, 0.0

    def came(self, interactive: int) -> None:
        """Learn that so many interactive jobs were claimed or handed over."""
        self._came += interactive
        self._owed += interactive / max(1, self._share - 1)

    def most(self, now: float) -> int | None:
        """Say how many bulk jobs the next claim may take; None: as many as find a seat."""
        self._look(now)
        self._owed += (now - self._counted_at) / REST_S * self._seats / self._share
        self._owed, self._counted_at = min(self._owed, float(self._seats)), now
        if self._streams and self._short_runs.are_the_rule and self._share > 1:
            return int(self._owed)
        return None

    def took(self, bulk: int) -> None:
        """Learn that so many bulk jobs were claimed."""
        self._owed = max(0.0, self._owed - bulk)

    def _look(self, now: float) -> None:
        rests = max(1.0, (now - self._since) / REST_S)
        if rests > 1 or self._came >= STREAM:
            self._streams = self._came >= STREAM * rests
            self._came, self._since = 0, now
