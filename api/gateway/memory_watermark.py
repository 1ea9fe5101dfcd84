"""Decides when the queue's server is too full for new jobs, so that those it has taken can end. Owns no clock."""

from typing import Final

from jobs.contract.errors import QueueFull
from jobs.metrics.server_memory import ServerMemory

BULK_SHARE: Final = 0.9  # as everywhere: the last tenth of the room is for interactive jobs
RETRY_AFTER_S: Final = 5


class MemoryWatermark:
    """The share of its memory that the server may use while new jobs are taken."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._memory = ServerMemory(0, 0)

    def observe(self, memory: ServerMemory) -> None:
        """Take in how much memory the server uses."""
        self._memory = memory

    def refusal(self, lane: str) -> QueueFull | None:
        """Say why no new job of this lane is taken; None: it is."""
        used, limit = self._memory
        mark = int(limit * self._share * (BULK_SHARE if lane == "bulk" else 1))
        if not limit or used < mark:
            return None
        which = "bulk jobs" if lane == "bulk" else "jobs"
        message = f"the queue's server uses {used} bytes of memory, of {limit}; new {which} are taken below {mark}"
        return QueueFull(message, used_bytes=used, limit_bytes=mark, retry_after_s=RETRY_AFTER_S)
