"""A model run over many inputs in one process, without a queue: decode pool → board → device, as in a worker.

Gives ends in the order of the inputs. Nobody waits for one of them, so a batch waits until it is full.
"""

import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count, islice
from typing import Final, NamedTuple, TypeVar

from batching.batcher import BatchLimits
from jobs.contract.job import Claimed, Outcome
from jobs.contract.lifecycle import State
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import BlackBox
from worker.execution.batch_run import Bench
from worker.execution.device import Device, serve
from worker.execution.inline_runs import ShortRuns
from worker.execution.pending_items import Board, Ended, Rider
from worker.execution.postprocess import Showing
from worker.execution.preprocess import DECODED_TOGETHER, prepare_all
from worker.fair_thread_pool import Work

T = TypeVar("T")

COMPANY_S: Final = 0.25  # longest wait for a full batch; decoding keeps the cores busy meanwhile
STUCK_S: Final = 60.0
NEVER_S: Final = 1e8
BEHIND: Final = 10  # nice
MOST_ENDED: Final = 4096  # ends that wait for those before them, or for whoever takes them


class Ride(NamedTuple):
    """One input. `read` gives its bytes, in a thread of the decode pool; what it raises is the end of this one."""

    kind: str
    read: Callable[[], bytes]
    parameters: bytes = b"{}"


End = Outcome | Exception


class _Seat:
    """A place in the order of the inputs."""

    __slots__ = ("end", "ride")

    def __init__(self, ride: Ride) -> None:
        self.ride = ride
        self.end: End | None = None


class Offline:
    """One model and what runs it; `run` once."""

    def __init__(self, model: Model, decode_threads: int) -> None:
        limits = BatchLimits(max_items=model.max_batch, max_wait_s=COMPANY_S)
        self._model = model
        self._board = Board(limits, ahead=2 * model.max_batch + 2 * decode_threads * DECODED_TOGETHER)
        self._device, self._box = Device(STUCK_S), BlackBox(None, "", 0, 0)
        self._decoders = ThreadPoolExecutor(decode_threads, "decode", _step_back)
        self._order: deque[_Seat] = deque()
        self._seats: dict[str, _Seat] = {}
        self._decoding: set[asyncio.Future[None]] = set()
        self._ended, self._taken = asyncio.Event(), asyncio.Event()

    async def run(self, rides: Iterator[Ride]) -> AsyncIterator[list[End]]:
        """Give the ends of all, as many at a time as are ready; raises what `rides` raises."""
        short_runs = ShortRuns(self._model.inputs, own_code=self._model.own_task or self._model.own_engine)
        bench = Bench(self._model, self._board.ceilings, self._box, short_runs)
        feeding = asyncio.create_task(self._feed(rides))
        serving = asyncio.create_task(serve(bench, self._board, self._device, self, Showing(bench, self, self)))
        for loop in (feeding, serving):
            loop.add_done_callback(lambda _: self._ended.set())
        try:
            while self._order or not feeding.done():
                self._ended.clear()
                if ready := self._ready():
                    yield ready
                    continue
                for loop in (feeding, serving):
                    if loop.done():
                        loop.result()
                if self._order or not feeding.done():
                    await self._ended.wait()
            feeding.result()
        finally:
            for loop in (feeding, serving):
                loop.cancel()
            await asyncio.gather(feeding, serving, return_exceptions=True)
            self._decoders.shutdown(wait=False, cancel_futures=True)
            self._device.close()

    def submit(self, work: Work[T]) -> "asyncio.Future[T]":
        """Run work in a thread of the decode pool: there is one tenant, and no turns are taken."""
        return asyncio.get_running_loop().run_in_executor(self._decoders, work.run)

    def add(self, ended: Sequence[Ended]) -> None:
        """Take in outcomes; one that says "try again" goes round once more."""
        self._board.leave([rider.job for rider, _ in ended])
        loop = asyncio.get_running_loop()
        for rider, outcome in ended:
            if outcome.state == State.QUEUED:
                job = rider.job._replace(attempt=rider.job.attempt + 1, retries=rider.job.retries + 1)
                loop.call_later(outcome.after_ms / 1000, self._board_all, [job])
            else:
                self._end(rider.job.id, outcome)

    async def until_room(self) -> None:
        """Wait while too many ends are not taken."""
        while len(self._order) > MOST_ENDED:
            self._taken.clear()
            await self._taken.wait()

    def _ready(self) -> list[End]:
        """Take the ends that nobody before them is missing for."""
        ready: list[End] = []
        while self._order and (end := self._order[0].end) is not None:
            self._order.popleft()
            ready.append(end)
        if ready:
            self._taken.set()
        return ready

    def _end(self, name: str, end: End) -> None:
        seat = self._seats.pop(name)
        seat.end = end
        if seat is self._order[0]:
            self._ended.set()

    async def _feed(self, rides: Iterator[Ride]) -> None:
        numbers = count()
        while True:
            await self._board.until_room()
            await self.until_room()
            few = list(islice(rides, min(self._board.room, DECODED_TOGETHER)))
            if not few:
                break
            jobs = [Claimed(str(next(numbers)), 1, ride.kind, b"", ride.parameters, 0, 0, 0) for ride in few]
            for job, ride in zip(jobs, few, strict=True):
                self._seats[job.id] = seat = _Seat(ride)
                self._order.append(seat)
            self._board_all(jobs)
            await asyncio.sleep(0)
        self._board.close()

    def _board_all(self, jobs: Sequence[Claimed]) -> None:
        now = time.monotonic()
        riders = [Rider(job, {}, now, now + NEVER_S) for job in jobs]
        for rider in riders:
            self._board.board(rider)
        decoding = asyncio.ensure_future(self._decode(riders))
        self._decoding.add(decoding)
        decoding.add_done_callback(self._decoding.discard)

    async def _decode(self, riders: list[Rider]) -> None:
        loop = asyncio.get_running_loop()
        with suppress(asyncio.CancelledError):  # the pool is closed
            unread, ends = await loop.run_in_executor(self._decoders, self._read_and_prepare, riders)
            for rider in riders:
                if (end := unread.get(rider.job.id)) is not None:
                    self._board.leave([rider.job])
                    self._end(rider.job.id, end)
                elif (failed := ends[rider.job.id]) is None:
                    self._board.seat(rider)
                else:
                    self.add([failed])

    def _read_and_prepare(self, riders: list[Rider]) -> tuple[dict[str, Exception], dict[str, Ended | None]]:
        unread: dict[str, Exception] = {}
        for rider in riders:
            try:
                rider.job = rider.job._replace(input=self._seats[rider.job.id].ride.read())
            except Exception as error:  # noqa: BLE001 - whoever made the ride knows what it means
                unread[rider.job.id] = error
        there = [rider for rider in riders if rider.job.id not in unread]
        ends = prepare_all(self._model, self._box, there)
        return unread, {rider.job.id: end for rider, end in zip(there, ends, strict=True)}


def _step_back() -> None:
    """Let this thread run behind those of the device: one of these that waits for a core holds up all the others.

    Measured with SqueezeNet on two cores: 6.5 % more images a second. Not so in a worker that serves: beside other
    processes' load its decoding would starve. Linux alone has priorities by thread.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BEHIND)
