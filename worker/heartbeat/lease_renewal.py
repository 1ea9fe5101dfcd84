"""Keeps what is aboard ours: one beat renews every lease, and lets go of riders that are no longer ours."""

import asyncio
import logging
from collections.abc import Sequence

from jobs.contract.errors import StoreUnavailable
from jobs.redis_client.outage_log import Outage
from jobs.store.job_store import JobStore
from worker.execution.device import Device
from worker.execution.pending_items import Board

log = logging.getLogger("jitney.worker")


async def run(store: JobStore, worker_id: str, boards: Sequence[Board], device: Device, beat_s: float) -> None:
    """Beat until cancelled."""
    outage = Outage(log, "renew leases")
    while True:
        await asyncio.sleep(beat_s)
        try:
            await tick(store, worker_id, boards, device)
            outage.ended()
        except StoreUnavailable as error:
            outage.began(error)


async def tick(store: JobStore, worker_id: str, boards: Sequence[Board], device: Device) -> None:
    """Renew once."""
    for board in [*boards]:  # they come and go
        if held := board.held():
            lost = await store.extend(worker_id, held)
            board.leave(lost)
            device.stop_if_deserted(board)
