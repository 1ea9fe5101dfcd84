"""The gateway's ticks over the whole queue: lost and overdue jobs, and how fast jobs end. Any number may tick."""

import asyncio
import logging
import random
import time
from contextlib import suppress

from api.pace import Pace
from jobs.errors import StoreUnavailable
from jobs.outage import Outage
from jobs.store import JobStore
from jobs.upkeep import sweep

FAR_FUTURE_MS = 1 << 52

log = logging.getLogger("jitney.api")


async def run(store: JobStore, every_s: float) -> None:
    """Sweep until cancelled; jittered, so that gateways spread out."""
    outage = Outage(log, "sweep")
    while True:
        await asyncio.sleep(every_s * random.uniform(0.8, 1.2))  # noqa: S311 (jitter)
        try:
            await tick(store)
            outage.ended()
        except StoreUnavailable as error:
            outage.began(error)


async def tick(store: JobStore) -> None:
    """Reclaim the jobs of lost workers and end overdue ones, once."""
    swept = await sweep(store, FAR_FUTURE_MS)
    if any(swept[1:]):
        log.info("swept: %d reclaimed, %d given up, %d expired", *swept[1:4])


async def watch_pace(pace: Pace, store: JobStore, every_s: float) -> None:
    """Look at how many jobs have ended, until cancelled."""
    while True:
        with suppress(StoreUnavailable):
            pace.saw(await store.counts(), time.monotonic())
        await asyncio.sleep(every_s)
