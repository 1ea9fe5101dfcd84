"""Measures the CPU use of other processes on this machine during a measurement. Linux only."""

import os
import time
from pathlib import Path
from typing import Final

_STAT: Final = Path("/proc/stat")
_IDLE: Final = (3, 4)  # idle and iowait, counted from user
_GUEST: Final = 8  # guest times, which are already included in user


class OtherCpuLoad:
    """CPU use of other processes since it was created; use it while the service is idle."""

    def __init__(self) -> None:
        self._wall, self._own, self._busy = time.perf_counter(), time.process_time(), _busy_s()

    def cores(self) -> float | None:
        """Return the mean cores used by others; None if unknown."""
        busy = _busy_s()
        if busy is None or self._busy is None:
            return None
        own = time.process_time() - self._own
        return max(0.0, (busy - self._busy - own) / (time.perf_counter() - self._wall))


def _busy_s() -> float | None:
    try:
        line = _STAT.read_text(encoding="ascii").partition("\n")[0]
        ticks = [int(field) for field in line.split()[1:]][:_GUEST]
        return sum(count for index, count in enumerate(ticks) if index not in _IDLE) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
