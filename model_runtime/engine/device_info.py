"""Which processor runs a model, by a name that stays the same from start to start: profiles are kept by it.

Speaks to NVIDIA's driver and to nothing else of theirs.
"""

import ctypes
import platform
import re
from pathlib import Path
from typing import Any, NamedTuple

DRIVER = "libcuda.so.1"
_NAME_BYTES = 128


class DriverInfo(NamedTuple):
    """What NVIDIA's answers. `cuda`: the newest that it runs, as 13000 for 13.0. `problem`: why there is no GPU."""

    gpus: int = 0
    cuda: int = 0
    problem: str = ""


def query_driver() -> DriverInfo:
    """Ask it; takes a moment the first time."""
    library = _driver()
    if library is None:
        return DriverInfo(problem=f"no NVIDIA GPU answers through {DRIVER}, which is not installed here")
    count, cuda = ctypes.c_int(0), ctypes.c_int(0)
    if code := library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        return DriverInfo(problem=f"no NVIDIA GPU answers through {DRIVER}: CUDA error {code}")
    library.cuDriverGetVersion(ctypes.byref(cuda))
    return DriverInfo(
        count.value, cuda.value, "" if count.value else f"no NVIDIA GPU answers through {DRIVER}: it has 0"
    )


def device_name(provider: str, threads: int, gpu: int = 0) -> str:
    """Such as "Intel(R) Xeon(R) CPU, 2 threads", or the GPU's, without its number: equal GPUs are equally fast."""
    if provider == "cpu":
        return f"{_cpu()}, {threads} thread{'s' * (threads != 1)}"
    name, device = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_int(0)
    library = _driver()
    if library is None or library.cuDeviceGet(ctypes.byref(device), gpu):
        return "GPU"
    library.cuDeviceGetName(name, _NAME_BYTES, device)
    return name.value.decode(errors="replace") or "GPU"


def _driver() -> Any:
    try:
        return ctypes.CDLL(DRIVER)
    except OSError:
        return None


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        found = None
    return " ".join((found[1] if found else platform.processor() or platform.machine() or "CPU").split())
