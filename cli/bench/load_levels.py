"""Load levels: a submit mode with requests in flight (closed loop) or jobs per second (open loop)."""

from collections.abc import Sequence
from typing import Final, NamedTuple

WAIT: Final = "wait"
POLL: Final = "poll"
BULK: Final = "bulk"
MODES: Final = (WAIT, POLL, BULK)


class LoadLevel(NamedTuple):
    """Closed loop: `concurrency` requests in flight, `rate` None. Open loop: `rate` jobs per second."""

    mode: str
    concurrency: int = 0
    rate: float | None = None

    @property
    def size(self) -> str:
        """The concurrency or rate, formatted for a table."""
        return str(self.concurrency) if self.rate is None else f"{self.rate:g}/s"

    def __str__(self) -> str:
        amount = f"c={self.concurrency}" if self.rate is None else self.size
        return amount if self.mode == WAIT else f"{self.mode} {amount}"


def list_load_levels(modes: Sequence[str], concurrencies: Sequence[int], rates: Sequence[float]) -> list[LoadLevel]:
    """Return the load levels in measuring order: mode by mode, closed loop first."""
    return [
        load
        for mode in modes
        for load in (*(LoadLevel(mode, n) for n in concurrencies), *(LoadLevel(mode, rate=rate) for rate in rates))
    ]
