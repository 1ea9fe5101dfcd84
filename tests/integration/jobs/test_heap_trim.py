"""Freed memory is kept for the next inputs, and later returned to the system; measured in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import program

HOLDS_AND_FREES = """
import asyncio
import ctypes
from jobs.metrics import heap_trim

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

async def main():
    trimming = asyncio.create_task(heap_trim.run(0.05))
    await asyncio.sleep(0.1)
    before = heap_trim.resident_bytes()
    blocks = [libc.malloc(64 << 10) for _ in range(2048)]
    for block in blocks:
        ctypes.memset(block, 1, 64 << 10)
    held = heap_trim.resident_bytes()
    for block in blocks[:-1]:  # the last one lies above all others
        libc.free(block)
    for _ in range(200):
        if heap_trim.resident_bytes() - before < 32 << 20:
            break
        await asyncio.sleep(0.05)
    print((held - before) >> 20, (heap_trim.resident_bytes() - before) >> 20)
    trimming.cancel()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc keeps what was freed")
def test_freed_memory_is_returned(tmp_path: Path) -> None:
    with program(HOLDS_AND_FREES, tmp_path / "log") as process:
        assert process.wait(30) == 0, (tmp_path / "log").read_text()
    held_mib, left_mib = map(int, (tmp_path / "log").read_text().split())
    assert held_mib >= 120
    assert left_mib < 32


FREES_AND_TAKES = """
import resource, sys
from jobs.metrics import heap_trim

if "keep" in sys.argv:
    heap_trim.keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    inputs = [bytes(150_000) for _ in range(16)]
    for each in inputs:
        bytearray(each)
    del inputs, each
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def fresh_pages(*argv: str, **more: str) -> int:
    """Return how many pages the system has given to a process that takes and frees 2.4 MB a hundred times."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))} | more
    done = subprocess.run(
        [sys.executable, "-c", FREES_AND_TAKES, *argv], env=env, capture_output=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc returns what was freed")
def test_freed_memory_is_used_again() -> None:
    assert fresh_pages() > 20_000  # else this proves nothing
    assert fresh_pages("keep") < 2000
    assert fresh_pages("keep", MALLOC_TRIM_THRESHOLD_="0") > 20_000  # an operator's setting counts
