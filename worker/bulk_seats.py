"""Whether bulk jobs take the seats that interactive ones leave empty. Owns no clock.

Where the device is what a batch waits for, an empty seat is wasted, and bulk has it. Where runs are short, what a job
costs is the time of queue, gateway and worker, which callers need: while these keep coming, bulk has its share of the
seats and no more.
"""

from typing import Final

from worker.short_runs import ShortRuns

REST_S: Final = 0.01  # between two claims that leave bulk jobs waiting: so long, at most, it is short of its share


class BulkSeats:
    """Decides for each claim of one model."""

    def __init__(self, short_runs: ShortRuns, seats: int, share: int) -> None:
        """`share`: one seat in so many is bulk's in any case; as many interactive jobs since a claim are a stream."""
        self._short_runs, self._stream = short_runs, max(1, seats // share)
        self._came = 0

    def came(self, interactive: int) -> None:
        """Learn that so many interactive jobs were claimed or handed over."""
        self._came += interactive

    def fill(self) -> bool:
        """Tell whether the next claim is to fill its seats; counts anew from here."""
        is_stream, self._came = self._came >= self._stream, 0
        return not (is_stream and self._short_runs.are_minor)
