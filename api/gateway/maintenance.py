"""Runs the gateway's periodic maintenance: sweeps of the queue, throughput and memory checks.

Any number of gateways may run it at the same time.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress

from api.gateway.lease_grace import LeaseGracePeriod
from api.gateway.memory_watermark import MemoryWatermark
from api.gateway.retry_after import RetryAfterEstimator
from jobs.contract.errors import StoreUnavailable
from jobs.metrics.server_memory import read_server_memory
from jobs.redis_client.outage_log import OutageLog
from jobs.store import maintenance, outputs
from jobs.store.job_store import JobStore
from jobs.store.maintenance import SweepResult

log = logging.getLogger("jitney.api")


async def run_sweeps(store: JobStore, interval_s: float, longest_lease_s: Callable[[], float]) -> None:
    """Sweep periodically until cancelled, with jitter so that gateways do not sweep at the same time.

    `longest_lease_s` returns the longest lease of a live worker, or 0 if none is known.
    """
    outage = OutageLog(log, "sweep")
    lease_grace = LeaseGracePeriod(interval_s, store.settings.lease_s)
    while True:
        await asyncio.sleep(interval_s * random.uniform(0.8, 1.2))  # noqa: S311 (jitter)
        lease_grace.set_longest_lease(longest_lease_s())
        with outage.suppress():
            await sweep_once(store, lease_grace)


async def sweep_once(store: JobStore, lease_grace: LeaseGracePeriod) -> None:
    """Expire overdue jobs, reclaim lost ones and purge old dead letters, once."""
    swept = await maintenance.sweep(store, lease_grace.latest_ms(time.monotonic()))
    if late_s := lease_grace.record_sweep(swept.now_ms, time.monotonic()):
        message = "the queue's server stalled, or its clock jumped, by %.1f s: no job is reclaimed for %.1f s"
        log.warning(message, late_s + lease_grace.renewal_s, lease_grace.renewal_s)
    if moved := describe_sweep(swept):
        log.info("swept: %s", moved)


def describe_sweep(swept: SweepResult) -> str:
    """Describe what a sweep did, for the log; an empty string if it did nothing."""
    moved = (
        (swept.reclaimed, "reclaimed from lost workers"),
        (swept.given_up, "failed after too many lost leases"),
        (swept.expired, "expired"),
        (swept.due, "queued for a retry"),
        (swept.purged, "old dead letters purged"),
    )
    return ", ".join(f"{count} {action}" for count, action in moved if count)


async def watch_server(
    retry_after: RetryAfterEstimator, watermark: MemoryWatermark, store: JobStore, interval_s: float
) -> None:
    """Read the job counts, the bytes of kept outputs and the server's memory periodically until cancelled."""
    while True:
        with suppress(StoreUnavailable):
            retry_after.observe(await store.counts(), time.monotonic())
            watermark.output_bytes = (await outputs.count_kept_bytes(store.connection, store.settings.shards))[""]
            watermark.observe(await read_server_memory(store.connection))
        await asyncio.sleep(interval_s)
