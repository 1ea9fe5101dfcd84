"""Name the CPU or GPU that runs a model, and query the NVIDIA driver for GPUs.

A device name is the same at every start, as it is a part of the key of profiles. Uses the driver library alone.
"""

import ctypes
import platform
import re
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

DRIVER = "libcuda.so.1"
NO_GPU = "no NVIDIA GPU"
_PROVIDERS: Final = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
_NAME_BYTES = 128


class DriverInfo(NamedTuple):
    """State of the NVIDIA driver. `cuda`: newest supported version, 13000 for 13.0. `problem`: why there is no GPU."""

    gpus: int = 0
    cuda: int = 0
    problem: str = ""


def query_driver() -> DriverInfo:
    """Query the NVIDIA driver. The first call initialises it, which takes a moment."""
    library = _driver()
    if library is None:
        return DriverInfo(problem=f"{NO_GPU}: {DRIVER} is not installed")
    count, cuda = ctypes.c_int(0), ctypes.c_int(0)
    if code := library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        return DriverInfo(problem=f"{NO_GPU}: {DRIVER} returns CUDA error {code}")
    library.cuDriverGetVersion(ctypes.byref(cuda))
    return DriverInfo(count.value, cuda.value, "" if count.value else f"{NO_GPU}: {DRIVER} finds none")


def device_name(provider: str, threads: int, gpu: int = 0) -> str:
    """Return a name such as "Intel(R) Xeon(R) CPU, 2 threads", or the GPU's name, without its number."""
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
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        match = None
    return " ".join((match[1] if match else platform.processor() or platform.machine() or "CPU").split())


class _Engine(Protocol):
    provider: str
    gpu: int | None

    @property
    def provider_note(self) -> str: ...


def summarize(engine: _Engine, max_batch: int) -> str:
    """Say what runs a model and in which batches, such as `CPU, batches up to 32`.

    Names what differs from the requested provider, but not that a machine without a GPU has none.
    """
    name = _PROVIDERS.get(engine.provider, engine.provider)
    gpu = f", GPU {engine.gpu}" if engine.gpu is not None else ""
    batches = f"batches up to {max_batch}" if max_batch > 1 else "one item at a time"
    note = f" ({engine.provider_note})" if engine.provider_note and NO_GPU not in engine.provider_note else ""
    return f"{name}{gpu}, {batches}{note}"
