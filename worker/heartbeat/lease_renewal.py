"""Renews the leases of all claimed jobs with each heartbeat; discards jobs whose lease is lost."""

import asyncio
import logging
from collections.abc import Sequence

from jobs.redis_client.outage_log import OutageLog
from jobs.store.job_store import JobStore
from worker.execution.device import Device
from worker.execution.pending_items import PendingItems

log = logging.getLogger("jitney.worker")


async def run(
    store: JobStore, worker_id: str, pending_items: Sequence[PendingItems], device: Device, heartbeat_s: float
) -> None:
    """Renew leases every `heartbeat_s` seconds until cancelled."""
    outage = OutageLog(log, "renew leases")
    while True:
        await asyncio.sleep(heartbeat_s)
        with outage.suppress():
            await renew_leases(store, worker_id, pending_items, device)


async def renew_leases(store: JobStore, worker_id: str, pending_items: Sequence[PendingItems], device: Device) -> None:
    """Renew the leases once."""
    for pending in [*pending_items]:  # a copy: models may be loaded or unloaded meanwhile
        if held := pending.held():
            lost = await store.extend(worker_id, held)
            pending.discard(lost)
            device.stop_if_abandoned(pending)
