"""The stations of one worker: they are put up and taken down while the others go on."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from jobs.contract.errors import StoreUnavailable
from model_runtime.model import Model
from worker.execution.model_runner import Shared, Station, name_of
from worker.execution.pending_items import Board
from worker.task_supervisor import Loops

log = logging.getLogger("jitney.worker")

LOOK_S = 0.01


class Depot:
    """All model versions that this worker runs, by name. `catch_up`: waits until every hand-over so far is heard."""

    def __init__(self, shared: Shared, loops: Loops, catch_up: Callable[[], Awaitable[None]]) -> None:
        self.stations: dict[str, Station] = {}
        self.boards: list[Board] = []  # also of those that are being taken down: their riders' leases are ours
        self._shared, self._loops, self._catch_up = shared, loops, catch_up
        self._going: list[Station] = []  # being taken down
        self._is_open = False

    def open(self) -> None:
        """Begin to take jobs."""
        self._is_open = True
        for station in self.stations.values():
            station.start(self._loops)

    async def put(self, model: Model) -> None:
        """Run a model version, in place of an earlier load of it: its lines stay, so nothing waits for nobody."""
        name = name_of(model)
        station, old = Station(self._shared, model, self.boards), self.stations.get(name)
        if old is not None:
            self._going.append(old)
            await self._stop_claiming([old])
        self.stations[name] = station
        self.boards.append(station.board)
        if self._is_open:
            station.start(self._loops)
        if old is not None:
            await self._take_down([old], math.inf)

    async def remove(self, name: str) -> Station:
        """Run a model version no more; gives what is left of it."""
        station = self.stations[name]
        self._going.append(station)
        await self._stop_claiming([station])
        del self.stations[name]
        await self._take_down([station], math.inf)
        return station

    async def close(self) -> None:
        """Take everything down, at the same time."""
        stations = [*dict.fromkeys((*self.stations.values(), *self._going))] if self._is_open else []
        await self._stop_claiming(stations)
        await self._take_down(stations, self._shared.settings.drain_s)

    async def _stop_claiming(self, stations: Sequence[Station]) -> None:
        """Let nobody in any more: neither by a claim nor handed over."""
        claiming = [station.claiming for station in stations]
        self._loops.may_end(claiming)
        for station in stations:
            station.intake.close()
        # Not cut off in a claim: its jobs would wait for their leases' end.
        if claiming:
            await asyncio.wait(claiming, timeout=self._shared.store.settings.redis_timeout_s)
        await self._loops.cancel(claiming)
        try:
            for station in stations:
                model = station.model
                await self._shared.store.leave_seats(model.name, model.version, self._shared.worker_id)
            await self._catch_up()
        except StoreUnavailable as error:
            log.warning("jobs may still be handed over, and go back when their leases end: %s", error)

    async def _take_down(self, stations: Sequence[Station], drain_s: float) -> None:
        """Let whoever is aboard arrive; after `drain_s` the rest goes back to the queue."""
        deadline = asyncio.get_running_loop().time() + drain_s
        while any(not station.board.is_empty for station in stations):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(LOOK_S)
        for station in stations:
            if held := station.board.held():
                log.warning("drained for %g s; %d jobs go back to the queue", drain_s, len(held))
                with suppress(StoreUnavailable):  # then they go back when their leases end
                    await self._shared.store.release(self._shared.worker_id, held)
                station.board.leave(held)
            await self._loops.cancel(station.others)
            self.boards.remove(station.board)
            if station in self._going:
                self._going.remove(station)
