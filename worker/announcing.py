"""Tells the queue that this worker lives, which models it serves and which it could not load, and what it measured."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from jobs import registry
from jobs.connection import Connection
from jobs.cpu import Meter
from jobs.errors import StoreUnavailable
from jobs.outage import Outage
from jobs.registry import WorkerReport
from jobs.stats import Tally
from worker.models.model import Model

log = logging.getLogger("jitney.worker")

BEATS_TO_LIVE = 3


async def run_beats(
    connection: Connection, report: Callable[[], WorkerReport], models: Sequence[Model], beat_s: float
) -> None:
    """Announce at once and with each beat, until cancelled."""
    first, cards, outage = True, [model.card() for model in models], Outage(log, "announce models")
    while True:
        try:
            await registry.announce(connection, report(), cards, beat_s * BEATS_TO_LIVE)
            if first:
                await registry.tell_news(connection)
            first = False
            outage.ended()
        except StoreUnavailable as error:
            outage.began(error)
        await asyncio.sleep(beat_s)


async def run_stats(connection: Connection, tallies: Mapping[str, Tally], meter: Meter, stats_s: float) -> None:
    """Add what was measured to the metrics, until cancelled."""
    outage = Outage(log, "tell metrics")
    while True:
        await asyncio.sleep(stats_s)
        try:
            await tell_stats(connection, tallies, meter)
            outage.ended()
        except StoreUnavailable as error:
            outage.began(error)


async def tell_stats(connection: Connection, tallies: Mapping[str, Tally], meter: Meter) -> None:
    """Add once."""
    await meter.tell(connection)
    for model, tally in tallies.items():
        await tally.tell(connection, model)
