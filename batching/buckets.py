"""The batch sizes a runtime is prepared for: other numbers of rows are padded up to the next of them.

A GPU picks kernels anew for each size it meets (TensorRT builds a whole engine), so there few sizes pay. On a CPU a row
that nobody asked for costs as much as any other, and no size is dearer than its neighbours: there is no padding.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Final

_POWERS: Final = tuple(2**power for power in range(13))
PADDED_PROVIDERS: Final = frozenset({"cuda", "tensorrt"})


def choose_buckets(provider: str, cap: int, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Sizes up to the cap, and the cap; none where every size runs as it is. `wanted`: the operator's."""
    if wanted is None and provider not in PADDED_PROVIDERS:
        return ()
    return (*takewhile(lambda size: size < cap, wanted or _POWERS), cap)


def padded_size(buckets: Sequence[int], item_count: int) -> int:
    """How many rows a batch of so many riders runs with."""
    return next((size for size in buckets if size >= item_count), item_count)
