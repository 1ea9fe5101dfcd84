"""Runs the lists of a gateway one at a time, with pauses, so that lists in a loop hardly slow submits.

A list waits for the one before it, and then as long as that took. Under load a list takes longer, and so do the pauses.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

PAUSE_FACTOR: Final = 1.0  # pause after a list, in multiples of the time that it took
MAX_PAUSE_S: Final = 0.1


class ListPacer:
    """Gives turns to lists, in the order of their arrival."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._free_at = 0.0  # on the clock of the event loop

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the block."""
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if (pause_s := self._free_at - clock()) > 0:
                await asyncio.sleep(pause_s)
            began = clock()
            try:
                yield
            finally:
                ended = clock()
                self._free_at = ended + min(MAX_PAUSE_S, PAUSE_FACTOR * (ended - began))
