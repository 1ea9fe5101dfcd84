"""Refuses new jobs while Redis uses too much memory, so that accepted jobs can still finish."""

import logging
from typing import Final

from jobs.contract.errors import QueueFull
from jobs.metrics.server_memory import ServerMemory

log = logging.getLogger("jitney.api")

BULK_SHARE: Final = 0.9  # the last tenth is reserved for interactive jobs, as with other limits
RETRY_AFTER_S: Final = 5


class MemoryWatermark:
    """A limit on the server's memory, as a share of its maximum, above which new jobs are refused."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._memory = ServerMemory(0, 0)
        self._lowest_mark = 0  # in bytes; below it no job is refused
        self.output_bytes = 0  # of kept outputs, as of the last look

    def observe(self, memory: ServerMemory) -> None:
        """Set the server's current memory usage, and log when new jobs begin or cease to be refused."""
        before, self._memory = self.refusal("interactive"), memory
        self._lowest_mark = int(memory.limit_bytes * self._share * BULK_SHARE)
        refusal = self.refusal("interactive")
        if refusal is not None and before is None:
            log.warning("refusing new jobs: %s", refusal)
        elif refusal is None and before is not None:
            log.info("accepting new jobs again: the queue's server uses %d bytes of memory", memory.used_bytes)

    def refusal(self, lane: str) -> QueueFull | None:
        """Return the error that refuses new jobs of this lane, or None if they are accepted."""
        used, limit = self._memory
        if used < self._lowest_mark or not limit:
            return None
        mark = int(limit * self._share * (BULK_SHARE if lane == "bulk" else 1))
        if used < mark:
            return None
        refused = "bulk jobs" if lane == "bulk" else "jobs"
        outputs = f", {self.output_bytes} of them for outputs" if self.output_bytes else ""
        message = f"the queue's server uses {used} of {limit} bytes of memory{outputs}"
        message += f"; new {refused} are accepted below {mark}"
        return QueueFull(message, used_bytes=used, limit_bytes=mark, retry_after_s=RETRY_AFTER_S)
