"""Runs one batch at a time on the device, stops runs that nobody needs, and ends the process if one hangs."""

import asyncio
import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from worker.execution import outcomes
from worker.execution.batch_run import BatchRun, DeviceLost, RunContext, RunOutput
from worker.execution.pending_items import CompletedItem, PendingItems
from worker.execution.postprocess import Postprocessor, ResultSink

log = logging.getLogger("jitney.worker")

EX_SOFTWARE = 70  # sysexits.h: only a new process can go on


class Device:
    """The device of a worker. It runs one batch at a time, in order of request, for all models."""

    def __init__(self, run_stop_timeout_s: float) -> None:
        """Create a device. `run_stop_timeout_s`: a run that goes on this long after a stop ends the process."""
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._run_stop_timeout_s = run_stop_timeout_s
        self._running: tuple[PendingItems, BatchRun] | None = None
        self.freed = asyncio.Event()
        self.last_run_s = 0.0
        self._last_item_count, self._free_at = 1, 0.0

    @property
    def is_busy(self) -> bool:
        return self._lock.locked()

    def remaining_s(self, now: float) -> float:
        """Estimate the remaining seconds of the run under way from the last run's time and size."""
        return self._free_at - now if self.is_busy else 0.0

    async def run_next(self, run_context: RunContext, pending: PendingItems) -> list[CompletedItem | RunOutput]:
        """Wait for the device, then close the next batch and run it; returns the results."""
        async with self._lock:
            completed: list[CompletedItem | RunOutput] = [
                outcomes.expire_item(item) for item in pending.overdue(time.monotonic())
            ]
            batch = pending.next_batch()
            if batch is None:
                return completed
            run, started = BatchRun(run_context, batch.group, batch.items), time.monotonic()
            self._free_at = started + self.last_run_s * min(1.0, len(run.items) / self._last_item_count)
            if run_context.inline_policy.is_expected_short(len(run.items)):
                completed += self._run_inline(run)
            else:
                self.freed.clear()
                completed += await self._run(pending, run)
            self.last_run_s, self._last_item_count = time.monotonic() - started, len(run.items)
        run_context.inline_policy.record_run(self.last_run_s, len(run.items))
        last = completed[-1]
        if infer_ms := last.infer_ms if isinstance(last, RunOutput) else last.outcome.infer_ms:
            run_context.inline_policy.record_inference(infer_ms / 1000)
        self.freed.set()
        log.debug(
            "%s: %d (%s), %.1f ms", run_context.model.name, len(batch.items), batch.reason, self.last_run_s * 1000
        )
        return completed

    def stop_if_abandoned(self, pending: PendingItems) -> None:
        """Stop the run under way if none of its items' results is still needed."""
        if self._running and self._running[0] is pending:
            run = self._running[1]
            if not any(pending.is_running(item) for item in run.items):
                self._stop(run)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

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

    async def _run(self, pending: PendingItems, run: BatchRun) -> list[CompletedItem | RunOutput]:
        loop, started = asyncio.get_running_loop(), time.monotonic()
        last_deadline = max(item.expires_at for item in run.items)
        overdue = loop.call_later(max(0.0, last_deadline - started), self._stop, run)
        self._running = (pending, run)
        try:
            return await loop.run_in_executor(self._thread, run)
        except DeviceLost as error:
            self._exit_device_lost(error)
        finally:
            overdue.cancel()
            self._running = None

    def _exit_device_lost(self, error: DeviceLost) -> NoReturn:
        """Exit at once: draining is impossible. The journal names the executing jobs, and the supervisor restarts."""
        log.critical("the device is lost; this worker exits: %s", error)
        os._exit(EX_SOFTWARE)

    def _stop(self, run: BatchRun) -> None:
        run.stop.now()
        asyncio.get_running_loop().call_later(self._run_stop_timeout_s, self._exit_if_running, run)

    def _exit_if_running(self, run: BatchRun) -> None:
        """Exit if the run has not stopped: it would block the device for ever."""
        if self._running and self._running[1] is run:
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
