"""Batch sizes that a runtime is prepared for; a batch is padded to the next of these sizes.

A GPU selects kernels for each batch size it meets (TensorRT builds a whole engine), so only a few sizes are used there.
On a CPU each padding row costs as much as a real one and every size runs equally well, so nothing is padded.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Final

_POWERS: Final = tuple(2**power for power in range(13))
PADDED_PROVIDERS: Final = frozenset({"cuda", "tensorrt"})


def choose_buckets(provider: str, cap: int, configured: Sequence[int] | None) -> tuple[int, ...]:
    """Return the sizes up to `cap`, and `cap` itself; empty if batches are not padded. `configured`: the operator's."""
    if configured is None and provider not in PADDED_PROVIDERS:
        return ()
    return (*takewhile(lambda size: size < cap, configured or _POWERS), cap)


def padded_size(buckets: Sequence[int], item_count: int) -> int:
    """Return how many rows a batch of `item_count` items runs with."""
    return next((size for size in buckets if size >= item_count), item_count)
