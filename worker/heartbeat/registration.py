"""Tells the queue that this worker lives, which models it serves and which it could not load, and what it measured."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from jobs.contract.errors import StoreUnavailable
from jobs.metrics.cpu_time import Meter
from jobs.models import worker_registry
from jobs.models.worker_registry import WorkerReport
from jobs.redis_client.client import Connection
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.outage_log import Outage
from worker.execution.model_runner import Station
from worker.versions.digest_agreement import SameFiles

log = logging.getLogger("jitney.worker")

BEATS_TO_LIVE = 3

Stations = Mapping[str, Station]


class Announcer:
    """Says what this worker does with each beat, and at once when that has changed."""

    def __init__(
        self,
        connection: Connection,
        report: Callable[[], WorkerReport],
        stations: Stations,
        same_files: SameFiles,
        beat_s: float,
    ) -> None:
        self._connection, self._report, self._stations, self._beat_s = connection, report, stations, beat_s
        self._same_files = same_files
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Say it at once, and have everybody look."""
        self._changed.set()

    async def run(self) -> None:
        """Announce until cancelled."""
        is_news, outage = True, Outage(log, "announce models")
        while True:
            try:
                await self._announce(is_news=is_news)
                is_news = False
                outage.ended()
            except StoreUnavailable as error:
                outage.began(error)
            if await wait_for_event(self._changed, self._beat_s):
                self._changed.clear()
                is_news = True

    async def _announce(self, *, is_news: bool) -> None:
        await self._same_files.renew()
        cards = [station.model.card() for station in self._stations.values()]
        await worker_registry.announce(self._connection, self._report(), cards, self._beat_s * BEATS_TO_LIVE)
        if is_news:
            await worker_registry.tell_news(self._connection)


async def run_stats(connection: Connection, stations: Stations, meter: Meter, stats_s: float) -> None:
    """Add what was measured to the metrics, until cancelled."""
    outage = Outage(log, "tell metrics")
    while True:
        await asyncio.sleep(stats_s)
        try:
            await tell_stats(connection, stations, meter)
            outage.ended()
        except StoreUnavailable as error:
            outage.began(error)


async def tell_stats(connection: Connection, stations: Stations, meter: Meter) -> None:
    """Add once."""
    await meter.tell(connection)
    for station in [*stations.values()]:
        await station.tally.tell(connection, station.model.name)
