"""How much memory a model may take on this machine, so that what can not fit is refused before it is tried."""

import os
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Final

from model_runtime.tensor_spec import DTYPES, TensorSpec

_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def usable_bytes() -> int:
    """The machine's memory or, in a container, what that may have."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system says; then nothing is refused for its size
        return 1 << 62
    for path in _LIMITS:
        try:
            return min(whole, int(path.read_text()))
        except (OSError, ValueError):  # there is none, or "max"
            continue
    return whole


def row_bytes(tensor_specs: Iterable[TensorSpec]) -> int:
    """What one row of these takes at least; a free dimension counts as 1. `ports`: with or without batch dimension."""
    return sum(
        prod(abs(side) for side in tensor_spec.shape) * DTYPES[tensor_spec.datatype].itemsize
        for tensor_spec in tensor_specs
    )


def format_bytes(size: int) -> str:
    """Readable: 1.5 GB."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.4g} GB"
