"""Runs batches: one at a time on the device, each closed only when the device is free for it."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import orjson

from batching.collation import Arrays, CollationError, fold, unfold
from jobs import codec
from jobs.errors import JitneyError, Refused
from jobs.lifecycle import State
from worker.board import Board, Ended, Rider
from worker.finishing import Finisher
from worker.models.model import Model

log = logging.getLogger("jitney.worker")


class Device:
    """What runs one batch at a time, for all models of this worker. First come, first served."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self.freed = asyncio.Event()
        self.last_run_s = 0.0

    @property
    def is_busy(self) -> bool:
        return self._lock.locked()

    async def run_next(self, model: Model, board: Board) -> list[Ended]:
        """Wait for the device, close a batch with whoever is aboard by then, and run it."""
        async with self._lock:
            batch = board.depart()
            if batch is None:
                return []
            self.freed.clear()
            started = time.monotonic()
            loop = asyncio.get_running_loop()
            ended = await loop.run_in_executor(self._thread, run_batch, model, batch.items)
            self.last_run_s = time.monotonic() - started
        self.freed.set()
        log.debug("%s: batch of %d (%s), %.1f ms", model.name, len(ended), batch.reason, self.last_run_s * 1000)
        return ended

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


async def serve(model: Model, board: Board, device: Device, finisher: Finisher) -> None:
    """Run a model's batches until cancelled."""
    while True:
        await board.until_due()
        await finisher.until_room()
        finisher.add(await device.run_next(model, board))


def run_batch(model: Model, riders: Sequence[Rider]) -> list[Ended]:
    """Run riders together; where that fails, in halves, until who fails is alone: nobody fails for another's input."""
    started = time.monotonic()
    try:
        outputs = unfold(model.run(fold([rider.arrays for rider in riders])), len(riders))
    except Exception as error:  # noqa: BLE001 (a runtime's errors derive from Exception only)
        if len(riders) == 1:
            return [_failed_alone(model, riders[0], error)]
        middle = len(riders) // 2
        return run_batch(model, riders[:middle]) + run_batch(model, riders[middle:])
    infer_ms = (time.monotonic() - started) * 1000
    ended = []
    for rider, output in zip(riders, outputs, strict=True):
        state, body = _present(model, rider, output)
        batch_ms = max(0.0, (started - rider.claimed_at) * 1000 - rider.decode_ms)
        ended.append(Ended(rider, rider.outcome(state, body, batch_ms, infer_ms, len(riders))))
    return ended


def _present(model: Model, rider: Rider, output: Arrays) -> tuple[State, bytes]:
    try:
        return State.SUCCEEDED, orjson.dumps(model.present(output, rider.parameters))
    except JitneyError as error:
        return State.FAILED, codec.error_body(error)
    except (Exception, SystemExit):  # a task of the user's own may do anything
        log.exception("presenting job %s failed in model %s", rider.job.id, model.name)
        refused = Refused("inference_failed", f"model {model.name}: its output can not be shown")
        return State.FAILED, codec.error_body(refused)


def _failed_alone(model: Model, rider: Rider, error: Exception) -> Ended:
    log.warning("job %s failed in model %s: %s", rider.job.id, model.name, error)
    reason = str(error) if isinstance(error, CollationError) else "the runtime refused this input"
    refused = Refused("inference_failed", f"model {model.name} could not run this input: {reason}")
    return Ended(rider, rider.outcome(State.FAILED, codec.error_body(refused), batch_size=1))
