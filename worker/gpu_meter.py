"""Reads memory and use of this worker's GPUs from the driver, where NVIDIA's library for Python is installed."""

import logging
import os
from collections.abc import Collection, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

log = logging.getLogger("jitney.worker")

_LIBRARY: Final = "pynvml"  # of the package nvidia-ml-py


class GpuMeter:
    """Reads GPUs by their CUDA device numbers. Without the library, a driver or a GPU there is nothing to read."""

    def __init__(self) -> None:
        self._library: Any = None
        self._is_absent = find_spec(_LIBRARY) is None
        self._handles: dict[int, Any] = {}

    def read(self, devices: Collection[int]) -> list[Mapping[str, float]]:
        """Return the number, used and total bytes, and the busy share (0 to 1) of each GPU that can be read."""
        if not devices or self._is_absent:
            return []
        try:
            if self._library is None:
                library = import_module(_LIBRARY)
                library.nvmlInit()
                self._library = library
            return [self._read(device) for device in sorted(devices)]
        except Exception as error:  # noqa: BLE001 (its errors have no common base that is public)
            log.info("metrics have no GPU: %s", error)
            self._is_absent = True
            return []

    def _read(self, device: int) -> Mapping[str, float]:
        library = self._library
        if device not in self._handles:
            self._handles[device] = _find(library, device)
        memory = library.nvmlDeviceGetMemoryInfo(self._handles[device])
        busy = library.nvmlDeviceGetUtilizationRates(self._handles[device]).gpu / 100
        return {"gpu": device, "used_bytes": memory.used, "total_bytes": memory.total, "busy": busy}


def _find(library: Any, device: int) -> Any:
    """Return the driver's handle of a CUDA device: `CUDA_VISIBLE_DEVICES` renumbers them."""
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    name = visible[device] if device < len(visible) else str(device)
    return library.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else library.nvmlDeviceGetHandleByUUID(name)
