"""Tells the queue that this worker lives, which models it serves and which it could not load, and what it measured."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from jobs import registry
from jobs.connection import Connection
from jobs.errors import StoreUnavailable
from jobs.registry import WorkerReport
from jobs.stats import Tally
from worker.models.model import Model

log = logging.getLogger("jitney.worker")

BEATS_TO_LIVE = 3


async def run_beats(connection: Connection, report: WorkerReport, models: Sequence[Model], beat_s: float) -> None:
    """Announce at once and with each beat, until cancelled."""
    first, cards = True, [model.card() for model in models]
    while True:
        try:
            await registry.announce(connection, report, cards, beat_s * BEATS_TO_LIVE)
            if first:
                await registry.tell_news(connection)
            first = False
        except StoreUnavailable as error:
            log.warning("not announced: %s", error)
        await asyncio.sleep(beat_s)


async def run_stats(connection: Connection, tallies: Mapping[str, Tally], stats_s: float) -> None:
    """Add what was measured to the metrics, until cancelled."""
    while True:
        await asyncio.sleep(stats_s)
        try:
            await tell_stats(connection, tallies)
        except StoreUnavailable as error:
            log.warning("metrics not told: %s", error)


async def tell_stats(connection: Connection, tallies: Mapping[str, Tally]) -> None:
    """Add once."""
    for model, tally in tallies.items():
        await tally.tell(connection, model)
