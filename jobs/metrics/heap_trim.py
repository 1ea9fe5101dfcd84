"""Returns freed memory to the system after large inputs and outputs.

glibc keeps freed memory that lies between two blocks still in use: a process that once held 300 MiB of bodies and
outputs would keep them for ever. Trimming takes milliseconds and may block other threads, so it runs only after the
process has grown.
"""

import asyncio
import ctypes
import gc
import os
import sys
from pathlib import Path
from typing import Final

GROWTH_BYTES: Final = 8 << 20
MOST_PAUSES: Final = 12  # longest pause between two attempts that free little, in multiples of the interval
_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Return the resident size of this process in bytes; 0 if the system does not report it."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def trim() -> None:
    """Collect garbage cycles, such as images in a traceback, and return free memory to the system.

    Without `malloc_trim` only collects. Collection is short, because objects loaded at start are frozen.
    """
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


async def run(interval_s: float) -> None:
    """Trim whenever the process has grown by GROWTH_BYTES, until cancelled; check every `interval_s` seconds.

    If trimming frees little, the memory is in use, and the next attempts come at longer intervals.
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
        was_effective = before - after > GROWTH_BYTES // 4
        pause_s = interval_s if was_effective else min(2 * pause_s, MOST_PAUSES * interval_s)
