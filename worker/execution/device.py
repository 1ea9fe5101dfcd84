"""Runs batches: one at a time on the device, each closed only when the device is free for it."""

import asyncio
import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from worker.execution import outcomes
from worker.execution.batch_run import BatchRun, Bench, DeviceLost, Ran
from worker.execution.pending_items import Board, Ended
from worker.execution.postprocess import Ends, Showing

log = logging.getLogger("jitney.worker")

EX_SOFTWARE = 70  # sysexits.h: this process is of no use any more, another may be


class Device:
    """What runs one batch at a time, for all models of this worker. First come, first served."""

    def __init__(self, stuck_s: float) -> None:
        """`stuck_s`: how long a run that was told to stop may go on."""
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._stuck_s = stuck_s
        self._running: tuple[Board, BatchRun] | None = None
        self.freed = asyncio.Event()
        self.last_run_s = 0.0
        self._last_riders, self._free_at = 1, 0.0

    @property
    def is_busy(self) -> bool:
        return self._lock.locked()

    def left_s(self, now: float) -> float:
        """Give how long the run under way is thought to go on: like the last, or shorter if it has fewer riders."""
        return self._free_at - now if self.is_busy else 0.0

    async def run_next(self, bench: Bench, board: Board) -> list[Ended | Ran]:
        """Wait for the device, close a batch with whoever is aboard by then, and run it."""
        async with self._lock:
            ended: list[Ended | Ran] = [outcomes.overdue(rider) for rider in board.overdue(time.monotonic())]
            batch = board.depart()
            if batch is None:
                return ended
            run, started = BatchRun(bench, batch.group, batch.items), time.monotonic()
            self._free_at = started + self.last_run_s * min(1.0, len(run.riders) / self._last_riders)
            if bench.short_runs.expected(len(run.riders)):
                ended += self._run_here(run)
            else:
                self.freed.clear()
                ended += await self._run(board, run)
            self.last_run_s, self._last_riders = time.monotonic() - started, len(run.riders)
        bench.short_runs.took(self.last_run_s, len(run.riders))
        last = ended[-1]
        if infer_ms := last.infer_ms if isinstance(last, Ran) else last.outcome.infer_ms:
            bench.short_runs.inferred(infer_ms / 1000)
        self.freed.set()
        log.debug("%s: %d (%s), %.1f ms", bench.model.name, len(batch.items), batch.reason, self.last_run_s * 1000)
        return ended

    def stop_if_deserted(self, board: Board) -> None:
        """End the run under way where none of its riders wants its result any more."""
        if self._running and self._running[0] is board:
            run = self._running[1]
            if not any(board.is_riding(rider) for rider in run.riders):
                self._stop(run)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run_here(self, run: BatchRun) -> list[Ended | Ran]:
        """Run what is over before another thread had begun; should it not be over, an alarm ends this process."""
        began, (left_s, every_s) = time.monotonic(), signal.setitimer(signal.ITIMER_REAL, self._stuck_s)
        try:
            return run()
        except DeviceLost as error:
            self._lose(error)
        finally:
            if left_s:  # somebody else's alarm
                left_s = max(1e-3, left_s - (time.monotonic() - began))
            signal.setitimer(signal.ITIMER_REAL, left_s, every_s)

    async def _run(self, board: Board, run: BatchRun) -> list[Ended | Ran]:
        loop, started = asyncio.get_running_loop(), time.monotonic()
        last_deadline = max(rider.expires_at for rider in run.riders)
        overdue = loop.call_later(max(0.0, last_deadline - started), self._stop, run)
        self._running = (board, run)
        try:
            return await loop.run_in_executor(self._thread, run)
        except DeviceLost as error:
            self._lose(error)
        finally:
            overdue.cancel()
            self._running = None

    def _lose(self, error: DeviceLost) -> NoReturn:
        """Not even a drain would work. The black box tells who was on it, and the supervisor starts anew."""
        log.critical("the device is lost, this worker ends: %s", error)
        os._exit(EX_SOFTWARE)

    def _stop(self, run: BatchRun) -> None:
        run.stop.now()
        asyncio.get_running_loop().call_later(self._stuck_s, self._give_up, run)

    def _give_up(self, run: BatchRun) -> None:
        """A run that does not stop would hold the device for ever."""
        if self._running and self._running[1] is run:
            log.critical("a run did not stop within %g s of being told to, this worker ends", self._stuck_s)
            os._exit(EX_SOFTWARE)


async def serve(bench: Bench, board: Board, device: Device, ends: Ends, showing: Showing) -> None:
    """Run a model's batches until cancelled."""
    while True:
        await board.until_due()
        await ends.until_room()
        await showing.until_room()
        await _serve_batch(bench, board, device, ends, showing)


async def _serve_batch(bench: Bench, board: Board, device: Device, ends: Ends, showing: Showing) -> None:
    """Run one batch; its outputs are not kept beyond that, for they may be large."""
    done = await device.run_next(bench, board)
    if not bench.model.own_task:
        ends.add(done)  # type: ignore[arg-type] # of our tasks nothing is left to be shown
        return
    ends.add([one for one in done if isinstance(one, Ended)])
    showing.add([one for one in done if isinstance(one, Ran)])
