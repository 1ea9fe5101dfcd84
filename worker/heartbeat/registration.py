"""Registers the worker with the queue: that it lives, its models, their load errors; and flushes its metrics."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from jobs.metrics.cpu_time import CpuMeter
from jobs.models import worker_registry
from jobs.models.worker_registry import WorkerReport
from jobs.redis_client.client import RedisClient
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.outage_log import OutageLog
from worker.execution.model_runner import ModelRunner
from worker.versions.digest_agreement import DigestAgreement

log = logging.getLogger("jitney.worker")

HEARTBEATS_TO_LIVE = 3

ModelRunners = Mapping[str, ModelRunner]


class WorkerRegistration:
    """Registers the worker with each heartbeat, and at once after a change."""

    def __init__(
        self,
        connection: RedisClient,
        report: Callable[[], WorkerReport],
        runners: ModelRunners,
        digest_agreement: DigestAgreement,
        heartbeat_s: float,
    ) -> None:
        self._connection, self._report, self._runners = connection, report, runners
        self._heartbeat_interval_s = heartbeat_s
        self._digest_agreement = digest_agreement
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Register at once and notify gateways and workers."""
        self._changed.set()

    async def run(self) -> None:
        """Register until cancelled."""
        is_changed, outage = True, OutageLog(log, "register this worker")
        while True:
            with outage.suppress():
                await self._register(is_changed=is_changed)
                is_changed = False
            if await wait_for_event(self._changed, self._heartbeat_interval_s):
                self._changed.clear()
                is_changed = True

    async def _register(self, *, is_changed: bool) -> None:
        await self._digest_agreement.renew()
        cards = [runner.model.card() for runner in self._runners.values()]
        await worker_registry.register_worker(
            self._connection, self._report(), cards, self._heartbeat_interval_s * HEARTBEATS_TO_LIVE
        )
        if is_changed:
            await worker_registry.notify_models_changed(self._connection)


async def run_metrics_flush(
    connection: RedisClient, runners: ModelRunners, meter: CpuMeter, metrics_flush_s: float
) -> None:
    """Flush metrics every `metrics_flush_s` seconds until cancelled."""
    outage = OutageLog(log, "flush metrics")
    while True:
        await asyncio.sleep(metrics_flush_s)
        with outage.suppress():
            await flush_metrics(connection, runners, meter)


async def flush_metrics(connection: RedisClient, runners: ModelRunners, meter: CpuMeter) -> None:
    """Flush the metrics once."""
    await meter.tell(connection)
    for runner in [*runners.values()]:
        await runner.histogram_buffer.tell(connection, runner.model.name)
