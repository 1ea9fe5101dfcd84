"""Lease of a piece of background work: a webhook delivery or a bulk step."""

from typing import NamedTuple


class BackgroundLease(NamedTuple):
    """Lease of one delivery or bulk job. Of several, only the one with the highest number is valid."""

    delivery: str
    number: int
