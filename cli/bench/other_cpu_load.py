"""Who else uses this machine's CPUs: what runs beside a measurement shows in it. Linux only."""

import os
import time
from pathlib import Path
from typing import Final

_STAT: Final = Path("/proc/stat")
_IDLE: Final = (3, 4)  # idle and iowait, counted from user
_GUEST: Final = 8  # from here on, time that is counted in user already


class OtherCpuLoad:
    """Meant for stretches in which the service idles: then all that is busy and not this process is foreign."""

    def __init__(self) -> None:
        self._wall, self._own, self._busy = time.perf_counter(), time.process_time(), _busy_s()

    def cores(self) -> float | None:
        """Mean cores used by others since this was made."""
        busy = _busy_s()
        if busy is None or self._busy is None:
            return None
        own = time.process_time() - self._own
        return max(0.0, (busy - self._busy - own) / (time.perf_counter() - self._wall))


def _busy_s() -> float | None:
    try:
        line = _STAT.read_text(encoding="ascii").partition("\n")[0]
        ticks = [int(word) for word in line.split()[1:]][:_GUEST]
        return sum(count for place, count in enumerate(ticks) if place not in _IDLE) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
