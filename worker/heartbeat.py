"""Periodic duties of a worker: registers it with the queue, renews the leases of its jobs, flushes its metrics."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from jobs.metrics.cpu_time import CpuMeter
from jobs.metrics.process_reports import ProcessReporter
from jobs.models import worker_registry
from jobs.models.worker_registry import WorkerReport
from jobs.redis_client.client import RedisClient
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.outage_log import OutageLog
from jobs.store.job_store import JobStore
from worker.execution.device import Device
from worker.execution.model_runner import ModelRunner
from worker.execution.pending_items import PendingItems
from worker.gpu_meter import GpuMeter
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


async def run_periodically(duty: Callable[[], Awaitable[None]], interval_s: float, what: str) -> None:
    """Do a duty every `interval_s` seconds until cancelled. `what` completes "cannot …" while Redis is unreachable."""
    outage = OutageLog(log, what)
    while True:
        await asyncio.sleep(interval_s)
        with outage.suppress():
            await duty()


async def renew_leases(store: JobStore, worker_id: str, pending_items: Sequence[PendingItems], device: Device) -> None:
    """Renew the leases of all claimed jobs once, and discard jobs whose lease is lost."""
    for pending in [*pending_items]:  # a copy: models may be loaded or unloaded meanwhile
        if held := pending.held():
            lost = await store.extend(worker_id, held)
            pending.discard(lost)
            device.stop_if_abandoned(pending)


async def flush_metrics(
    store: JobStore, runners: ModelRunners, meter: CpuMeter, reporter: ProcessReporter, gpus: GpuMeter
) -> None:
    """Flush the metrics and the tenants' usage once."""
    connection = store.connection
    await meter.flush(connection)
    await store.usage.flush(connection)
    running = {name: len(runner.pending.held()) for name, runner in runners.items()}
    indexes = {runner.model.gpu for runner in runners.values() if runner.model.gpu is not None}
    await reporter.flush(connection, running=running, gpus=gpus.read(indexes))
    for runner in [*runners.values()]:
        await runner.histogram_buffer.flush(connection, runner.model.name)
