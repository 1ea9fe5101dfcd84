"""Returns memory that the C library keeps after large inputs and outputs to the system.

glibc keeps what was freed between two blocks that are still in use: a process that once held 300 MiB of bodies and
outputs would hold them for ever. Trimming takes milliseconds, and other threads may wait for it, so it is done only
where the process has grown.
"""

import asyncio
import ctypes
import gc
import os
import sys
from pathlib import Path
from typing import Final

GROWTH_BYTES: Final = 8 << 20
MOST_PAUSES: Final = 12  # of the usual interval, between two attempts that give nothing back
_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Read the resident size of this process, in bytes; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def trim() -> None:
    """Free what only cycles hold, such as pictures in an error's traceback, and return free memory to the system.

    Where the C library has no such call, only the former. A collection is short: what was loaded at start is frozen.
    """
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


async def run(interval_s: float) -> None:
    """Trim whenever the process has grown by GROWTH_BYTES, until cancelled; checks every `interval_s` seconds.

    Where that gives little back the memory is in use: the next attempts come at longer intervals.
    """
    smallest, pause_s = resident_bytes(), interval_s
    while True:
        await asyncio.sleep(pause_s)
        before = resident_bytes()
        if before < smallest + GROWTH_BYTES:
            pause_s = interval_s
            continue
        await asyncio.to_thread(trim)
        smallest = min(smallest, after := resident_bytes())
        gave_back = before - after > GROWTH_BYTES // 4
        pause_s = interval_s if gave_back else min(2 * pause_s, MOST_PAUSES * interval_s)
