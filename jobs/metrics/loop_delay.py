"""Measures how late an event loop runs its timers: the delay that each of its callers sees."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 0.5


class LoopDelayMeter:
    """Sleeps again and again, and records by how much each sleep was too long."""

    def __init__(self, observe: Callable[[float], None] | None = None) -> None:
        """Create a meter. `observe` gets each delay in seconds."""
        self._observe, self._longest_s = observe, 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(INTERVAL_S)
            delay_s = max(0.0, time.monotonic() - began - INTERVAL_S)
            self._longest_s = max(self._longest_s, delay_s)
            if self._observe is not None:
                self._observe(delay_s)

    def take_longest_s(self) -> float:
        """Return the longest delay since the last call, in seconds."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s
