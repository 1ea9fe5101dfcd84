"""Report usable memory and minimum sizes of tensors (callers refuse models that cannot fit); format byte sizes."""

import os
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Final

from model_runtime.tensor_spec import DTYPES, TensorSpec

_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def usable_bytes() -> int:
    """Return the memory of the machine, or the limit of the container, in bytes."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # unknown on this system: refuse nothing
        return 1 << 62
    for path in _LIMITS:
        try:
            return min(total, int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


def row_bytes(tensor_specs: Iterable[TensorSpec]) -> int:
    """Return the minimum size of one row in bytes, with or without a batch dimension; a free dimension counts as 1."""
    return sum(
        prod(abs(side) for side in tensor_spec.shape) * DTYPES[tensor_spec.datatype].itemsize
        for tensor_spec in tensor_specs
    )


def format_bytes(size: int) -> str:
    """Format a size for people, such as 1.5 GB."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.4g} GB"
