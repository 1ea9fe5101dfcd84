"""Refuses new jobs while Redis uses too much memory, so that accepted jobs can still finish."""

import logging
from typing import Final, NamedTuple

from jobs.contract.errors import QueueFull
from jobs.redis_client.client import RedisClient

log = logging.getLogger("jitney.api")

BULK_SHARE: Final = 0.9  # the last tenth is reserved for interactive jobs, as with other limits
RETRY_AFTER_S: Final = 5


class ServerMemory(NamedTuple):
    """Bytes. `limit_bytes`: the server's `maxmemory` or, if that is 0, its machine's memory; 0 if unknown."""

    used_bytes: int
    limit_bytes: int


async def read_server_memory(connection: RedisClient) -> ServerMemory:
    facts = await connection.facts("memory")
    used, limit, machine = (int(facts.get(name, 0)) for name in ("used_memory", "maxmemory", "total_system_memory"))
    return ServerMemory(used, limit or machine)


class MemoryWatermark:
    """A limit on the server's memory, as a share of its maximum, above which new jobs are refused."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._memory = ServerMemory(0, 0)

    def observe(self, memory: ServerMemory) -> None:
        """Set the server's current memory usage, and log when new jobs begin or cease to be refused."""
        before, self._memory = self.refusal("interactive"), memory
        refusal = self.refusal("interactive")
        if refusal is not None and before is None:
            log.warning("refusing new jobs: %s", refusal)
        elif refusal is None and before is not None:
            log.info("accepting new jobs again: the queue's server uses %d bytes of memory", memory.used_bytes)

    def refusal(self, lane: str) -> QueueFull | None:
        """Return the error that refuses new jobs of this lane, or None if they are accepted."""
        used, limit = self._memory
        mark = int(limit * self._share * (BULK_SHARE if lane == "bulk" else 1))
        if not limit or used < mark:
            return None
        refused = "bulk jobs" if lane == "bulk" else "jobs"
        message = f"the queue's server uses {used} of {limit} bytes of memory; new {refused} are accepted below {mark}"
        return QueueFull(message, used_bytes=used, limit_bytes=mark, retry_after_s=RETRY_AFTER_S)
