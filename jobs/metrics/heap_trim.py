"""Sets how much freed memory a process keeps for the next inputs and outputs, and trims it after the process has grown.

By default glibc returns memory at the end of its heap soon, and gets it back page by page, each zeroed by the system:
with inputs of 100 kB that took up to a fifth of a gateway's CPU time. It also keeps freed memory that lies between two
blocks still in use: a process that once held 300 MiB of bodies and outputs would keep them for ever. Trimming takes
milliseconds and may block other threads, so it runs only after the process has grown.
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
KEPT_BYTES: Final = 32 << 20  # at the end of each heap (threads may have their own), until it is trimmed
LARGE_BYTES: Final = 4 << 20  # a block of this size is mapped by itself, and returned as soon as it is freed
# Of mallopt in malloc.h, and the variables by which an operator sets them.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_VARIABLES: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
_TUNABLES: Final = "GLIBC_TUNABLES"
_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Return the resident size of this process in bytes; 0 if the system does not report it."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def keep_freed_memory() -> None:
    """Keep up to KEPT_BYTES of freed memory, unless the environment sets this. Does nothing without glibc.

    Blocks of LARGE_BYTES and more are not kept.
    """
    libc = _libc()
    is_set = any(name in os.environ for name in _VARIABLES) or "glibc.malloc." in os.environ.get(_TUNABLES, "")
    if libc is not None and hasattr(libc, "mallopt") and not is_set:
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def trim() -> None:
    """Collect garbage cycles, such as images in a traceback, and return free memory to the system.

    Without `malloc_trim` only collects. Collection is short, because objects loaded at start are frozen.
    """
    gc.collect()
    libc = _libc()
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


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
