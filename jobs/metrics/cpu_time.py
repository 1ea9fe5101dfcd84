"""CPU time by part: all processes of a part add theirs to one sum in Redis; Redis reports its own.

Adding costs one small script per flush. A killed process loses at most the time since its last flush.
"""

import time
from typing import Final

from jobs.redis_client import generic_scripts, keys
from jobs.redis_client.client import RedisClient

GATEWAY: Final = "gateway"
WORKER: Final = "worker"
BACKGROUND: Final = "background"
REDIS: Final = "redis"
PARTS: Final = (GATEWAY, WORKER, BACKGROUND, REDIS)


class CpuMeter:
    """CPU time of this process (all threads) that was not added to Redis yet."""

    def __init__(self, part: str) -> None:
        self._part, self._flushed_us = part, 0

    async def flush(self, connection: RedisClient) -> None:
        """Add the new CPU time to the part's sum. A failed call loses it rather than count it twice."""
        spent_us = time.process_time_ns() // 1000
        added_us, self._flushed_us = spent_us - self._flushed_us, spent_us
        await generic_scripts.increment(connection, keys.CPU, {self._part: added_us})


async def read_cpu_seconds(connection: RedisClient) -> dict[str, float]:
    """Return CPU seconds by part; 0 for a part that added none. The server's value resets when it restarts."""
    counters = await connection.command("HGETALL", keys.CPU)
    server = await connection.facts("cpu")
    return {
        **{part: int(counters.get(part.encode(), 0)) / 1e6 for part in PARTS if part != REDIS},
        REDIS: sum(float(server.get(name, 0)) for name in ("used_cpu_user", "used_cpu_sys")),
    }
