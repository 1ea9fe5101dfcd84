"""CPU time by part: gateways and workers add theirs to one sum each in Redis; the queue's server knows its own.

Adding costs one small script a tick. A process that is killed takes what it has not told with it: a tick at most.
"""

import time
from typing import Final

from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient

GATEWAY: Final = "gateway"
WORKER: Final = "worker"
QUEUE: Final = "queue"
PARTS: Final = (GATEWAY, WORKER, QUEUE)


class CpuMeter:
    """The CPU time of this process, all threads, that it has not told yet."""

    def __init__(self, part: str) -> None:
        self._part, self._flushed_us = part, 0

    async def tell(self, connection: RedisClient) -> None:
        """Add it to the part's sum. What an outage cuts off is lost, rather than counted twice."""
        spent_us = time.process_time_ns() // 1000
        added_us, self._flushed_us = spent_us - self._flushed_us, spent_us
        await connection.script("generic/increment", keys.CPU, self._part, added_us)


async def read_cpu_seconds(connection: RedisClient) -> dict[str, float]:
    """Seconds by part; a part that has told nothing yet has 0. The server's begin anew when it starts anew."""
    counters = await connection.command("HGETALL", keys.CPU)
    server = await connection.facts("cpu")
    return {
        **{part: int(counters.get(part.encode(), 0)) / 1e6 for part in (GATEWAY, WORKER)},
        QUEUE: sum(float(server.get(name, 0)) for name in ("used_cpu_user", "used_cpu_sys")),
    }
