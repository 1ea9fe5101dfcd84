"""What is asked of the service in one stretch: by which mode, and how many in flight or how many a second."""

from collections.abc import Sequence
from typing import Final, NamedTuple

WAIT: Final = "wait"
POLL: Final = "poll"
BULK: Final = "bulk"
MODES: Final = (WAIT, POLL, BULK)


class LoadLevel(NamedTuple):
    """Closed loop: `concurrency` requests in flight, and `rate` None. Open loop: `rate` jobs a second."""

    mode: str
    concurrency: int = 0
    rate: float | None = None

    @property
    def size(self) -> str:
        """How much of it, for a line of a table."""
        return str(self.concurrency) if self.rate is None else f"{self.rate:g}/s"

    def __str__(self) -> str:
        amount = f"c={self.concurrency}" if self.rate is None else self.size
        return amount if self.mode == WAIT else f"{self.mode} {amount}"


def list_load_levels(modes: Sequence[str], concurrencies: Sequence[int], rates: Sequence[float]) -> list[LoadLevel]:
    """In the order in which they are measured: mode by mode, closed loop first."""
    return [
        load
        for mode in modes
        for load in (*(LoadLevel(mode, one) for one in concurrencies), *(LoadLevel(mode, rate=one) for one in rates))
    ]
