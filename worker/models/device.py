"""Which processor runs a model, by a name that stays the same from start to start: profiles are kept by it."""

import ctypes
import platform
import re
from pathlib import Path

_NAME_BYTES = 128


def gpu_count() -> int:
    """NVIDIA GPUs that answer through the driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    ready = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if ready else 0


def name_of(provider: str, threads: int) -> str:
    """Such as "Intel(R) Xeon(R) CPU, 2 threads", or the GPU's."""
    if provider == "cpu":
        return f"{_cpu()}, {threads} thread{'s' * (threads != 1)}"
    name = ctypes.create_string_buffer(_NAME_BYTES)
    try:
        ctypes.CDLL("libcuda.so.1").cuDeviceGetName(name, _NAME_BYTES, 0)
    except (OSError, AttributeError):
        return "GPU"
    return name.value.decode(errors="replace") or "GPU"


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        found = None
    return " ".join((found[1] if found else platform.processor() or platform.machine() or "CPU").split())
