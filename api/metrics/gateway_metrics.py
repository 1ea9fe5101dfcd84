"""Writes the metrics of a gateway process: CPU time, refusals, usage and a report to Redis; its own to memory."""

import asyncio
from collections.abc import Collection
from contextlib import suppress

from api.metrics.process_counters import ProcessCounters
from jobs.contract.errors import StoreUnavailable
from jobs.metrics import cpu_time, refusals
from jobs.metrics.process_reports import ProcessReporter
from jobs.store.job_store import JobStore


class GatewayMetrics:
    """The metrics that one gateway process writes."""

    def __init__(self, store: JobStore, gateway_id: str, flush_s: float, process_counters: ProcessCounters) -> None:
        self._store, self._connection = store, store.connection
        self._flush_s, self._process_counters = flush_s, process_counters
        self._meter = cpu_time.CpuMeter(cpu_time.GATEWAY)
        self._reporter = ProcessReporter("gateway", gateway_id, flush_s, process_counters.observe_delay)
        self.connections: Collection[object] = ()  # of this process, set by its server

    async def run(self) -> None:
        """Write them periodically until cancelled."""
        while True:
            self._process_counters.write(len(self.connections))
            with suppress(StoreUnavailable):
                await self._flush()
                await self._reporter.flush(self._connection)
            await asyncio.sleep(self._flush_s)

    async def measure_delay(self) -> None:
        """Measure the delay of the event loop until cancelled."""
        await self._reporter.loop_delay.run()

    async def close(self) -> None:
        """Write what is left, and remove the report; raises StoreUnavailable."""
        await self._flush()
        await self._reporter.withdraw(self._connection)

    async def _flush(self) -> None:
        await self._meter.flush(self._connection)
        await refusals.flush(self._connection)
        await self._store.usage.flush(self._connection)
