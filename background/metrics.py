"""Writes the metrics of the background process to Redis: CPU time, usage, memory, loop delay, rq's queues."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from background.dispatcher import Dispatcher
from jobs.contract.errors import StoreUnavailable
from jobs.metrics import cpu_time
from jobs.metrics.process_reports import ProcessReporter
from jobs.store.job_store import JobStore


class BackgroundMetrics:
    """The metrics of one background process."""

    def __init__(self, store: JobStore, process_id: str, flush_s: float, dispatchers: Sequence[Dispatcher]) -> None:
        self._store, self._connection, self._flush_s, self._dispatchers = store, store.connection, flush_s, dispatchers
        self._meter = cpu_time.CpuMeter(cpu_time.BACKGROUND)
        self._reporter = ProcessReporter("background", process_id, flush_s)

    def loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return the loops that measure and write until cancelled."""
        return self._reporter.loop_delay.run(), self._run()

    async def close(self) -> None:
        """Write what is left, and remove the report; raises StoreUnavailable."""
        await self._meter.flush(self._connection)
        await self._store.usage.flush(self._connection)
        await self._reporter.withdraw(self._connection)

    async def _run(self) -> None:
        while True:
            with suppress(StoreUnavailable):
                await self._meter.flush(self._connection)
                await self._store.usage.flush(self._connection)
                queued = {dispatcher.kind: dispatcher.queued for dispatcher in self._dispatchers}
                await self._reporter.flush(self._connection, rq=queued)
            await asyncio.sleep(self._flush_s)
