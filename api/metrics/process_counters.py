"""Counts this process's HTTP requests by route and status, their time, and the delay of its event loop.

The numbers lie in memory that all gateway processes behind one port share, because a scrape reaches any of them: each
process has a slot of its own, and the one that answers adds up all slots. A request costs three additions to integers.
"""

import mmap
import os
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from api.asgi.request_observer import UNMATCHED
from jobs.metrics.heap_trim import resident_bytes

STATUSES: Final = (
    *(200, 202, 204, 206, 400, 401, 403, 404, 405, 406, 408, 409, 410, 413, 415, 422, 429, 431, 499),
    *(500, 503, 504, 507),
)  # others are counted as 0
BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MAX_ROUTES: Final = 255  # pairs of method and route; others are counted as unmatched
STALE_S: Final = 10.0  # a process that has not written for so long is gone
_BYTES: Final = 8
_NAME_BYTES: Final = 120
# A slot in numbers of 8 bytes: ms of its last write (by the monotonic clock, which is one for the machine), memory, CPU
# time, connections; histogram of delays; routes.
_SEEN, _MEMORY, _CPU, _CONNECTIONS, _DELAY = 0, 1, 2, 3, 4
_HISTOGRAM: Final = len(BOUNDS_S) + 2  # buckets, the last without a bound; the sum in µs
_ROUTES: Final = _DELAY + _HISTOGRAM
# A route: its name; requests by status; a histogram of seconds.
_STATUS: Final = _NAME_BYTES // _BYTES
_TIME: Final = _STATUS + len(STATUSES) + 1
_ROW: Final = _TIME + _HISTOGRAM
SLOT: Final = _ROUTES + (MAX_ROUTES + 1) * _ROW
_STATUS_AT: Final = {status: _STATUS + at for at, status in enumerate(STATUSES)}
_OTHER_STATUS: Final = _STATUS + len(STATUSES)


class Histogram(NamedTuple):
    """Observations by bucket, not cumulative; the last bucket has no bound. `sum_us`: in µs."""

    buckets: Sequence[int]
    sum_us: int


class RouteCounts(NamedTuple):
    """Requests of one method and route. `statuses`: by status, 0 = any other."""

    method: str
    route: str
    statuses: dict[int, int]
    seconds: Histogram


class ProcessCounts(NamedTuple):
    """The sums of all processes behind one port. CPU time in µs."""

    processes: int
    memory_bytes: int
    cpu_us: int
    connections: int
    loop_delay: Histogram
    routes: list[RouteCounts]


class ProcessCounters:
    """The numbers of this process, and through `read` those of all processes that share its memory."""

    def __init__(self, shared_fd: int | None = None, slot: int = 0, slots: int = 1) -> None:
        """Create counters in the shared file `shared_fd`, or in memory of this process alone."""
        size = slots * SLOT * _BYTES
        if shared_fd is None:
            self._all = memoryview(array("q", bytes(size)))
        else:
            if os.fstat(shared_fd).st_size < size:
                os.ftruncate(shared_fd, size)
            self._all = memoryview(mmap.mmap(shared_fd, size)).cast("q")
        self._slots, self._first, self._written_us = slots, slot * SLOT, 0
        # A process that died may have left a slot: its counts go on, and its routes keep their rows.
        names = enumerate(self._names(self._first))
        self._rows = {key: self._first + _ROUTES + at * _ROW for at, key in names if key}
        self._unmatched = self._row_of("", UNMATCHED)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        row = self._rows.get((method, route)) or self._row_of(method, route)
        counts = self._all
        counts[row + _STATUS_AT.get(status, _OTHER_STATUS)] += 1
        counts[row + _TIME + bisect_left(BOUNDS_S, seconds)] += 1
        counts[row + _ROW - 1] += int(seconds * 1e6)

    def observe_delay(self, seconds: float) -> None:
        """Count a delay of the event loop."""
        at = self._first + _DELAY
        self._all[at + bisect_left(BOUNDS_S, seconds)] += 1
        self._all[at + _HISTOGRAM - 1] += int(seconds * 1e6)

    def write(self, connections: int) -> None:
        """Write the numbers of this moment."""
        at, counts = self._first, self._all
        spent_us = time.process_time_ns() // 1000
        counts[at + _CPU] += spent_us - self._written_us
        counts[at + _MEMORY], self._written_us = resident_bytes(), spent_us
        counts[at + _CONNECTIONS], counts[at + _SEEN] = connections, time.monotonic_ns() // 1_000_000

    def read(self) -> ProcessCounts:
        """Return the sums of all processes; those that are gone count with what they have counted."""
        now_ms, firsts = time.monotonic_ns() // 1_000_000, range(0, self._slots * SLOT, SLOT)
        alive = [at for at in firsts if self._all[at + _SEEN] > now_ms - STALE_S * 1000]

        def total(field: int) -> int:
            return sum(self._all[at + field] for at in alive)

        delays = [self._histogram(at + _DELAY) for at in firsts]
        return ProcessCounts(
            processes=len(alive),
            memory_bytes=total(_MEMORY),
            cpu_us=sum(self._all[at + _CPU] for at in firsts),
            connections=total(_CONNECTIONS),
            loop_delay=_sum(delays),
            routes=[*self._read_routes(firsts)],
        )

    def _read_routes(self, firsts: Sequence[int]) -> Iterator[RouteCounts]:
        rows: dict[tuple[str, str], list[int]] = {}
        for first in firsts:
            for number, key in enumerate(self._names(first)):
                rows.setdefault(key, []).append(first + _ROUTES + number * _ROW)
        for (method, route), places in sorted(rows.items()):
            counts = Counter[int]()
            for place in places:
                for status, at in ((0, _OTHER_STATUS), *_STATUS_AT.items()):
                    counts[status] += self._all[place + at]
            found = {status: count for status, count in counts.items() if count}
            if found:
                yield RouteCounts(method, route, found, _sum([self._histogram(place + _TIME) for place in places]))

    def _histogram(self, at: int) -> Histogram:
        *buckets, sum_us = self._all[at : at + _HISTOGRAM]
        return Histogram(buckets, sum_us)

    def _names(self, first: int) -> list[tuple[str, str]]:
        """Return method and route of each row in use of a slot."""
        names: list[tuple[str, str]] = []
        for number in range(MAX_ROUTES + 1):
            at = first + _ROUTES + number * _ROW
            text = self._all[at : at + _STATUS].tobytes().rstrip(b"\0").decode()
            if not text:
                break
            method, _, route = text.partition(" ")
            names.append((method, route))
        return names

    def _row_of(self, method: str, route: str) -> int:
        """Return the row of a method and route, a new one if there is room."""
        known = self._rows.get((method, route))
        if known is not None:
            return known
        name = f"{method} {route}".encode()
        if len(self._rows) > MAX_ROUTES or len(name) > _NAME_BYTES:
            return self._unmatched
        at = self._first + _ROUTES + len(self._rows) * _ROW
        self._all[at : at + _STATUS] = memoryview(array("q", name.ljust(_NAME_BYTES, b"\0")))
        self._rows[method, route] = at
        return at


def _sum(histograms: Sequence[Histogram]) -> Histogram:
    buckets = [sum(counts) for counts in zip(*(each.buckets for each in histograms), strict=True)]
    return Histogram(buckets, sum(each.sum_us for each in histograms))
