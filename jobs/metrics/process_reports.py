"""Live numbers of each process, kept in Redis while it lives: memory, event-loop delay, claimed jobs, GPU, rq queues.

Workers and background processes serve no HTTP. Any gateway reads the reports of all of them at a scrape.
"""

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, TypedDict

import orjson

from jobs.config.compared_settings import Part
from jobs.config.settings_agreement import release
from jobs.metrics.heap_trim import resident_bytes
from jobs.metrics.loop_delay import LoopDelayMeter
from jobs.redis_client import keys
from jobs.redis_client.client import RedisClient

MIN_TTL_S: Final = 5.0
FLUSHES_TO_LIVE: Final = 3


class ProcessReport(TypedDict, total=False):
    """Numbers of one process. `running`: jobs that it has claimed, by "<model> <version>". `rq`: waiting by queue.

    `gpus`: of each GPU that it uses its number, `used_bytes`, `total_bytes` and `busy`, a share from 0 to 1.
    """

    part: Part
    host: str
    pid: int
    version: str
    memory_bytes: int
    loop_delay_s: float
    running: Mapping[str, int]
    rq: Mapping[str, int]
    gpus: list[Mapping[str, float]]


class ProcessReporter:
    """Writes the report of this process with each flush, and removes it at the end."""

    def __init__(
        self, part: Part, process_id: str, flush_s: float, observe_delay: Callable[[float], None] | None = None
    ) -> None:
        self.loop_delay = LoopDelayMeter(observe_delay)
        self._id, self._ttl_ms = process_id, int(max(MIN_TTL_S, FLUSHES_TO_LIVE * flush_s) * 1000)
        self._same: ProcessReport = {
            "part": part,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": release(),
        }

    async def flush(self, connection: RedisClient, **numbers: Any) -> None:
        """Write the report, with numbers that not every part has; raises StoreUnavailable."""
        own = {"memory_bytes": resident_bytes(), "loop_delay_s": self.loop_delay.take_longest_s()}
        report = orjson.dumps({**self._same, **own, **numbers})
        await _write(connection, self._id, self._ttl_ms, report)

    async def withdraw(self, connection: RedisClient) -> None:
        """Remove the report; raises StoreUnavailable."""
        await _write(connection, self._id, 0, b"")


async def _write(connection: RedisClient, process_id: str, ttl_ms: int, report: bytes) -> None:
    await connection.script("registry/report_process", keys.PROCESSES, process_id, ttl_ms, report)


async def read_reports(connection: RedisClient) -> list[ProcessReport]:
    """Return the reports of all live processes."""
    reports: list[ProcessReport] = []
    for text in await connection.script("registry/read_processes", keys.PROCESSES):
        try:
            reports.append(orjson.loads(text))
        except ValueError:  # of another release, or broken: the others still count
            continue
    return reports
