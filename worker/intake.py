"""Claims jobs of one model ahead of the device and prepares them, so that the next batch is ready when it is free."""

import asyncio
import logging
import time
from concurrent.futures import Executor
from functools import partial
from typing import Any

import orjson

from batching.collation import group_of
from jobs import codec
from jobs.errors import JitneyError, Refused, StoreUnavailable
from jobs.job import Claimed
from jobs.lifecycle import State
from jobs.outage import Outage
from jobs.store import JobStore
from worker.board import Board, Ended, Rider, wait_for_event
from worker.finishing import Finisher
from worker.inference import Device
from worker.models.model import Model

log = logging.getLogger("jitney.worker")

OUTAGE_PAUSE_S = 0.5
DECODED_TOGETHER = 4


class Intake:
    """The claim loop of one model."""

    def __init__(
        self,
        *,
        store: JobStore,
        worker_id: str,
        model: Model,
        board: Board,
        finisher: Finisher,
        device: Device,
        decoders: Executor,
        idle_poll_s: float,
    ) -> None:
        self._store, self._worker_id, self._model = store, worker_id, model
        self._board, self._finisher, self._device = board, finisher, device
        self._decoders, self._idle_poll_s = decoders, idle_poll_s
        self._woken = asyncio.Event()
        self._closing = False
        self._outage = Outage(log, f"claim jobs of {model.name}")

    def wake(self) -> None:
        """Look for work at once."""
        self._woken.set()

    def close(self) -> None:
        """Claim nothing more; a claim under way is taken in."""
        self._closing = True
        self._woken.set()
        self._board.close()

    async def run(self) -> None:
        """Claim as long as there is room, until closed."""
        while not self._closing:
            await self._board.until_room()
            if self._closing:
                return
            self._woken.clear()
            wanted = self._board.room
            try:
                claimed = await self._store.claim(self._model.name, self._model.version, self._worker_id, wanted)
            except StoreUnavailable as error:
                self._outage.began(error)
                await asyncio.sleep(OUTAGE_PAUSE_S)
                continue
            self._outage.ended()
            self._take(claimed.jobs)
            if len(claimed.jobs) < wanted and not claimed.more and not self._closing:
                await self._pause()

    async def _pause(self) -> None:
        """The lines are empty: wait for a wake. While a batch runs, let a few arrive and claim them together."""
        await wait_for_event(self._woken, self._idle_poll_s)
        if self._device.is_busy:
            await wait_for_event(self._device.freed, self._device.last_run_s / 4)

    def _take(self, claimed: list[Claimed]) -> None:
        now = time.monotonic()
        riders = [Rider(job, {}, now) for job in claimed]
        for rider in riders:
            self._board.board(rider)
        if not self._model.offload:
            self._settle(riders, prepare_all(self._model, riders))
            return
        # A few to a thread: a hop between threads costs as much as decoding a small image.
        loop = asyncio.get_running_loop()
        for few in (riders[at : at + DECODED_TOGETHER] for at in range(0, len(riders), DECODED_TOGETHER)):
            prepared = loop.run_in_executor(self._decoders, prepare_all, self._model, few)
            prepared.add_done_callback(partial(self._settle_later, few))

    def _settle_later(self, riders: list[Rider], prepared: asyncio.Future[list[JitneyError | None]]) -> None:
        if prepared.cancelled():
            return
        if error := prepared.exception():
            log.error("preparing for model %s failed", self._model.name, exc_info=error)
            refused = Refused("invalid_input", f"model {self._model.name} could not prepare this input")
            self._settle(riders, [refused] * len(riders))
        else:
            self._settle(riders, prepared.result())

    def _settle(self, riders: list[Rider], errors: list[JitneyError | None]) -> None:
        for rider, error in zip(riders, errors, strict=True):
            if error is None:
                self._board.seat(rider)
            else:
                self._finisher.add([Ended(rider, rider.outcome(State.FAILED, codec.error_body(error)))])


def prepare_all(model: Model, riders: list[Rider]) -> list[JitneyError | None]:
    """Prepare riders one after the other, in whatever thread."""
    return [prepare(model, rider) for rider in riders]


def prepare(model: Model, rider: Rider) -> JitneyError | None:
    """Turn a rider's bytes into arrays; an error is a value: it belongs to this rider alone."""
    started = time.monotonic()
    try:
        rider.parameters = parameters_of(rider.job)
        rider.arrays = model.prepare(rider.job.kind, rider.job.input, rider.parameters)
        rider.group = group_of(rider.arrays)
    except JitneyError as error:
        return error
    except (Exception, SystemExit):  # a task of the user's own may do anything
        log.exception("preparing job %s failed in model %s", rider.job.id, model.name)
        return Refused("invalid_input", f"model {model.name} could not prepare this input")
    finally:
        rider.decode_ms = (time.monotonic() - started) * 1000
    return None


def parameters_of(job: Claimed) -> dict[str, Any]:
    """Read a job's parameters."""
    parameters = orjson.loads(job.parameters)
    if not isinstance(parameters, dict):
        raise Refused("invalid_request", "parameters must be an object")
    return parameters
