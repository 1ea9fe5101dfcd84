"""Decodes leases of background work (a webhook delivery or a bulk step) from the reply of their dispatch script."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jobs.contract.ids import shard_of
from jobs.redis_client import keys


class BackgroundLease(NamedTuple):
    """Lease of one delivery or bulk job. Of several, only the one with the highest number is valid."""

    delivery: str
    number: int

    @property
    def root(self) -> str:
        """Root key of its shard."""
        return keys.root(shard_of(self.delivery))


def read_leases(answer: Sequence[Any]) -> tuple[list[BackgroundLease], float | None]:
    """Decode the leases of a dispatch script, and the seconds until the next work is due; None if there is none."""
    next_ms, *leased = answer
    pairs = zip(leased[::2], leased[1::2], strict=True)
    return [BackgroundLease(name.decode(), int(number)) for name, number in pairs], (
        None if next_ms < 0 else next_ms / 1000
    )
