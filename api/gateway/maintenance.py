"""The gateway's ticks: lost and overdue jobs of the queue, how fast jobs end, how full its server is; its own CPU time.

Any number of gateways may tick.
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
from jobs.metrics import cpu_time, server_memory
from jobs.metrics.server_memory import ServerMemory
from jobs.redis_client.client import RedisClient
from jobs.redis_client.outage_log import OutageLog
from jobs.store import maintenance
from jobs.store.job_store import JobStore
from jobs.store.maintenance import SweepResult

log = logging.getLogger("jitney.api")


async def run_sweeps(store: JobStore, interval_s: float, longest_lease_s: Callable[[], float]) -> None:
    """Sweep until cancelled; jittered, so that gateways spread out.

    `longest_lease_s`: gives the longest lease of a live worker, 0 where none is known.
    """
    outage = OutageLog(log, "sweep")
    lease_grace = LeaseGracePeriod(interval_s, store.settings.lease_s)
    while True:
        await asyncio.sleep(interval_s * random.uniform(0.8, 1.2))  # noqa: S311 (jitter)
        lease_grace.set_longest_lease(longest_lease_s())
        try:
            await sweep_once(store, lease_grace)
            outage.ended()
        except StoreUnavailable as error:
            outage.began(error)


async def sweep_once(store: JobStore, lease_grace: LeaseGracePeriod) -> None:
    """Sweep once."""
    swept = await maintenance.sweep(store, lease_grace.latest_ms(time.monotonic()))
    if late_s := lease_grace.record_sweep(swept.now_ms, time.monotonic()):
        message = "the queue's server stood still, or its clock jumped, by %.1f s: no job is taken back for %.1f s"
        log.warning(message, late_s + lease_grace.renewal_s, lease_grace.renewal_s)
    if moved := describe_sweep(swept):
        log.info("swept: %s", moved)


def describe_sweep(swept: SweepResult) -> str:
    """Say what a sweep moved; an empty string where that is nothing."""
    moved = (
        (swept.reclaimed, "taken back from lost workers"),
        (swept.given_up, "given up after too many losses"),
        (swept.expired, "expired"),
        (swept.due, "due for their retry"),
        (swept.purged, "old dead letters forgotten"),
    )
    return ", ".join(f"{count} {what}" for count, what in moved if count)


async def watch_server(
    retry_after: RetryAfterEstimator, watermark: MemoryWatermark, store: JobStore, interval_s: float
) -> None:
    """Look at how many jobs have ended, and how full the server is, until cancelled."""
    while True:
        with suppress(StoreUnavailable):
            retry_after.observe(await store.counts(), time.monotonic())
            update_watermark(watermark, await server_memory.read_server_memory(store.connection))
        await asyncio.sleep(interval_s)


async def flush_cpu_time(connection: RedisClient, interval_s: float) -> None:
    """Tell what CPU time this process uses, until cancelled."""
    meter = cpu_time.CpuMeter(cpu_time.GATEWAY)
    while True:
        await asyncio.sleep(interval_s)
        with suppress(StoreUnavailable):
            await meter.tell(connection)


def update_watermark(watermark: MemoryWatermark, seen: ServerMemory) -> None:
    """Let the watermark see how full the server is, and say when new jobs begin to be refused, and cease to be."""
    before = watermark.refusal("interactive")
    watermark.observe(seen)
    refusal = watermark.refusal("interactive")
    if refusal is not None and before is None:
        log.warning("refusing new jobs: %s", refusal)
    elif refusal is None and before is not None:
        log.info("taking new jobs again: the queue's server uses %d bytes of memory", seen.used_bytes)
