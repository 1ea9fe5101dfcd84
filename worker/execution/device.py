"""Runs batches on the device, shared by device time; stops runs that nobody needs, and ends the process if one hangs.

A batch is closed only when the device is free for it. A worker runs one batch at a time, or some of different models
side by side (`max_concurrent_runs`). A model has at most one run under way, and so has a GPU.
"""

import asyncio
import logging
import os
import signal
import time
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NoReturn

from batching.device_share import DeviceShare
from model_runtime.engine.onnx_engine import Stop
from worker.execution import outcomes
from worker.execution.batch_run import BatchRun, DeviceLost, RunContext, RunOutput
from worker.execution.pending_items import CompletedItem, PendingItems
from worker.execution.postprocess import Postprocessor, ResultSink

log = logging.getLogger("jitney.worker")

EX_SOFTWARE = 70  # sysexits.h: only a new process can go on
RECENT_RUNS: Final = 8


@dataclass(eq=False, slots=True)
class _Turn:
    """A model's turn on the device. `granted`: set when its wait ends. `run`: its run in a thread, may be stopped."""

    name: str
    on_gpu: bool
    pending: PendingItems
    granted: asyncio.Event | None = None
    ends_at: float = 0.0  # estimated, on the monotonic clock
    run: BatchRun | None = None


class _RunTimes:
    """The last runs of a version."""

    def __init__(self) -> None:
        self.last_s, self._last_items = 0.0, 1
        self._recent: deque[float] = deque(maxlen=RECENT_RUNS)

    def record(self, seconds: float, item_count: int) -> None:
        self.last_s, self._last_items = seconds, item_count
        self._recent.append(seconds)

    def estimate_s(self, item_count: int) -> float:
        return self.last_s * min(1.0, item_count / self._last_items)

    @property
    def shortest_s(self) -> float:
        return min(self._recent, default=0.0)


class Device:
    """The device of a worker. Model versions are named `<name> <version>`."""

    def __init__(self, run_stop_timeout_s: float, max_concurrent_runs: int = 1) -> None:
        """Create a device. `run_stop_timeout_s`: a run that goes on this long after a stop ends the process."""
        self._threads = ThreadPoolExecutor(max_concurrent_runs, thread_name_prefix="device")
        self._run_stop_timeout_s, self._max_concurrent_runs = run_stop_timeout_s, max_concurrent_runs
        self._share = DeviceShare()
        self._waiting: list[_Turn] = []
        self._turns: list[_Turn] = []  # under way
        self._times: defaultdict[str, _RunTimes] = defaultdict(_RunTimes)
        self.freed = asyncio.Event()  # set at the end of each run

    def is_busy(self, name: str) -> bool:
        """Return whether a run of this version cannot begin now."""
        turns = self._turns
        return bool(turns) and (len(turns) >= self._max_concurrent_runs or any(turn.name == name for turn in turns))

    def remaining_s(self, name: str, now: float) -> float:
        """Estimate the seconds until a run of this version can begin, from the last run of each version."""
        own = [turn.ends_at for turn in self._turns if turn.name == name]
        return min(own or [turn.ends_at for turn in self._turns]) - now if self.is_busy(name) else 0.0

    def last_run_s(self, name: str) -> float:
        """Return the seconds that the last run of this version took; 0 if there was none."""
        return self._times[name].last_s

    def usual_run_s(self, name: str) -> float:
        """Return the seconds of the shortest of the last few runs of this version, which other load delays least."""
        return self._times[name].shortest_s

    async def run_next(self, run_context: RunContext, pending: PendingItems) -> list[CompletedItem | RunOutput]:
        """Wait for the device, then close the next batch and run it; returns the results."""
        turn = _Turn(run_context.name, run_context.model.uses_gpu, pending)
        if self._waiting or not self._can_begin(turn):
            await self._wait_for_turn(turn)
        else:
            self._start(turn)
        seconds, item_count, inline_policy = 0.0, 0, run_context.inline_policy
        try:
            started = time.monotonic()
            completed: list[CompletedItem | RunOutput] = [*map(outcomes.expire_item, pending.overdue(started))]
            batch = pending.next_batch()
            if batch is None:
                return completed
            run = BatchRun(run_context, batch.group, batch.items)
            item_count = run.size
            if inline_policy.is_expected_short(item_count):
                completed += self._run_inline(run)
            else:
                turn.ends_at = started + self._times[turn.name].estimate_s(item_count)
                run.stop = Stop()
                completed += await self._run(turn, run)
            seconds = time.monotonic() - started
        finally:
            self._end(turn, seconds, item_count)
        inline_policy.record_run(seconds, item_count, None if turn.on_gpu else run.cpu_s)
        if run.batches:
            inline_policy.record_inference(run.batches[-1][1] / 1000)
        if run_context.record:
            run_context.record(run, batch.reason, seconds)
        return completed

    def stop_if_abandoned(self, pending: PendingItems) -> None:
        """Stop the run under way if none of its items' results is still needed."""
        for turn in self._turns:
            if turn.pending is pending and turn.run and not any(map(pending.is_running, turn.run.items)):
                self._stop(turn.run)

    def forget(self, name: str) -> None:
        """Forget a version that is unloaded."""
        self._times.pop(name, None)
        self._share.forget(name)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _wait_for_turn(self, turn: _Turn) -> None:
        turn.granted = asyncio.Event()
        self._waiting.append(turn)
        asyncio.get_running_loop().call_soon(self._grant)
        try:
            await turn.granted.wait()
        except asyncio.CancelledError:
            if turn in self._turns:
                self._end(turn, 0.0, 0)
            else:
                self._waiting.remove(turn)
            raise

    def _can_begin(self, turn: _Turn) -> bool:
        return not self.is_busy(turn.name) and not (turn.on_gpu and any(other.on_gpu for other in self._turns))

    def _start(self, turn: _Turn) -> None:
        self._turns.append(turn)
        self._share.begin(turn.name)

    def _grant(self) -> None:
        """Let the waiting turns begin for which there is room, in the order of the device time used."""
        while turns := {turn.name: turn for turn in reversed(self._waiting) if self._can_begin(turn)}:
            turn = turns[self._share.next_of(reversed(turns))]
            self._waiting.remove(turn)
            self._start(turn)
            if turn.granted is not None:
                turn.granted.set()

    def _end(self, turn: _Turn, seconds: float, item_count: int) -> None:
        self._turns.remove(turn)
        self._share.end(turn.name, seconds)
        if item_count:
            self._times[turn.name].record(seconds, item_count)
        if self._waiting:  # later in this iteration, so that the next batch of this model takes part
            asyncio.get_running_loop().call_soon(self._grant)
        self.freed.set()

    def _run_inline(self, run: BatchRun) -> list[CompletedItem | RunOutput]:
        """Run a short batch on this thread. If it is not short, an alarm signal ends this process."""
        began = time.monotonic()
        remaining_s, interval_s = signal.setitimer(signal.ITIMER_REAL, self._run_stop_timeout_s)
        try:
            return run()
        except DeviceLost as error:
            self._exit_device_lost(error)
        finally:
            if remaining_s:  # restores an earlier alarm
                remaining_s = max(1e-3, remaining_s - (time.monotonic() - began))
            signal.setitimer(signal.ITIMER_REAL, remaining_s, interval_s)

    async def _run(self, turn: _Turn, run: BatchRun) -> list[CompletedItem | RunOutput]:
        loop, started = asyncio.get_running_loop(), time.monotonic()
        last_deadline = max(item.expires_at for item in run.items)
        overdue = loop.call_later(max(0.0, last_deadline - started), self._stop, run)
        turn.run = run
        try:
            return await loop.run_in_executor(self._threads, run)
        except DeviceLost as error:
            self._exit_device_lost(error)
        finally:
            overdue.cancel()
            turn.run = None

    def _exit_device_lost(self, error: DeviceLost) -> NoReturn:
        """Exit at once: draining is impossible. The journal names the executing jobs, and the supervisor restarts."""
        log.critical("the device is lost; this worker exits: %s", error)
        os._exit(EX_SOFTWARE)

    def _stop(self, run: BatchRun) -> None:
        if run.stop is not None:
            run.stop.now()
        asyncio.get_running_loop().call_later(self._run_stop_timeout_s, self._exit_if_running, run)

    def _exit_if_running(self, run: BatchRun) -> None:
        """Exit if the run has not stopped: it would block the device for ever."""
        if any(turn.run is run for turn in self._turns):
            log.critical("a run did not stop within %g s of its stop; this worker exits", self._run_stop_timeout_s)
            os._exit(EX_SOFTWARE)


async def run_batches(
    run_context: RunContext, pending: PendingItems, device: Device, sink: ResultSink, postprocessor: Postprocessor
) -> None:
    """Run a model's batches until cancelled."""
    while True:
        await pending.wait_until_due()
        await sink.wait_for_room()
        await postprocessor.wait_for_room()
        await _run_batch(run_context, pending, device, sink, postprocessor)


async def _run_batch(
    run_context: RunContext, pending: PendingItems, device: Device, sink: ResultSink, postprocessor: Postprocessor
) -> None:
    """Run one batch. A function of its own, so that large outputs are freed before the next wait."""
    done = await device.run_next(run_context, pending)
    sink.add([end for end in done if isinstance(end, CompletedItem)])
    if left := [end for end in done if isinstance(end, RunOutput)]:
        postprocessor.add(left)
