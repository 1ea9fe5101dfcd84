"""The lease of a piece of background work: what it is for, and its number, of which only the last one counts."""

from typing import NamedTuple


class BackgroundLease(NamedTuple):
    """One handing out of a delivery; of several only the last counts."""

    delivery: str
    number: int
