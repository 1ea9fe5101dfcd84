"""The gateway's ticks: lost and overdue jobs of the queue, how fast jobs end, how full its server is; its own CPU time.

Any number of gateways may tick.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress

from api.gateway.lease_grace import Patience
from api.gateway.memory_watermark import Watermark
from api.gateway.retry_after import Pace
from jobs.contract.errors import StoreUnavailable
from jobs.metrics import cpu_time, server_memory
from jobs.metrics.server_memory import Memory
from jobs.redis_client.client import Connection
from jobs.redis_client.outage_log import Outage
from jobs.store import maintenance
from jobs.store.job_store import JobStore
from jobs.store.maintenance import Swept

log = logging.getLogger("jitney.api")


async def run(store: JobStore, every_s: float, longest_lease_s: Callable[[], float]) -> None:
    """Sweep until cancelled; jittered, so that gateways spread out.

    `longest_lease_s`: gives the longest lease of a live worker, 0 where none is known.
    """
    outage = Outage(log, "sweep")
    patience = Patience(every_s, store.settings.lease_s)
    while True:
        await asyncio.sleep(every_s * random.uniform(0.8, 1.2))  # noqa: S311 (jitter)
        patience.leases_are(longest_lease_s())
        try:
            await tick(store, patience)
            outage.ended()
        except StoreUnavailable as error:
            outage.began(error)


async def tick(store: JobStore, patience: Patience) -> None:
    """Sweep once."""
    swept = await maintenance.sweep(store, patience.latest_ms(time.monotonic()))
    if late_s := patience.heard(swept.now_ms, time.monotonic()):
        message = "the queue's server stood still, or its clock jumped, by %.1f s: no job is taken back for %.1f s"
        log.warning(message, late_s + patience.beat_s, patience.beat_s)
    if moved := in_words(swept):
        log.info("swept: %s", moved)


def in_words(swept: Swept) -> str:
    """Say what a sweep moved; an empty string where that is nothing."""
    moved = (
        (swept.reclaimed, "taken back from lost workers"),
        (swept.given_up, "given up after too many losses"),
        (swept.expired, "expired"),
        (swept.due, "due for their retry"),
        (swept.purged, "old dead letters forgotten"),
    )
    return ", ".join(f"{count} {what}" for count, what in moved if count)


async def watch(pace: Pace, watermark: Watermark, store: JobStore, every_s: float) -> None:
    """Look at how many jobs have ended, and how full the server is, until cancelled."""
    while True:
        with suppress(StoreUnavailable):
            pace.saw(await store.counts(), time.monotonic())
            look(watermark, await server_memory.read(store.connection))
        await asyncio.sleep(every_s)


async def tell_cpu(connection: Connection, every_s: float) -> None:
    """Tell what CPU time this process uses, until cancelled."""
    meter = cpu_time.Meter(cpu_time.GATEWAY)
    while True:
        await asyncio.sleep(every_s)
        with suppress(StoreUnavailable):
            await meter.tell(connection)


def look(watermark: Watermark, seen: Memory) -> None:
    """Let the watermark see how full the server is, and say when new jobs begin to be refused, and cease to be."""
    before = watermark.refusal("interactive")
    watermark.saw(seen)
    refusal = watermark.refusal("interactive")
    if refusal is not None and before is None:
        log.warning("refusing new jobs: %s", refusal)
    elif refusal is None and before is not None:
        log.info("taking new jobs again: the queue's server uses %d bytes of memory", seen.used_bytes)
