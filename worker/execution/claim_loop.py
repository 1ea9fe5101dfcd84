"""Claims jobs of one model ahead of the device and prepares them, so that the next batch is ready when it is free."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

from jobs.contract.errors import StoreUnavailable
from jobs.contract.job import Claim, Claimed, Handed
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.outage_log import Outage
from jobs.store.job_store import JobStore
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import BlackBox
from worker.execution.bulk_quota import REST_S, BulkSeats
from worker.execution.device import Device
from worker.execution.isolation_gate import Gate
from worker.execution.pending_items import Board, Ended, Rider
from worker.execution.preprocess import DECODED_TOGETHER, prepare_all
from worker.execution.result_writer import Finisher
from worker.fair_thread_pool import Turns, Work

log = logging.getLogger("jitney.worker")

OUTAGE_PAUSE_S = 0.5
WORTH_WAITING_S = 0.01  # a shorter wait before a claim would change nothing
SLACK_S = 0.003


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
        threads: Turns,
        box: BlackBox,
        gate: Gate,
        bulk_seats: BulkSeats,
        idle_poll_s: float,
    ) -> None:
        self._store, self._worker_id, self._model = store, worker_id, model
        self._board, self._finisher, self._device = board, finisher, device
        self._threads, self._box, self._gate, self._idle_poll_s = threads, box, gate, idle_poll_s
        self._bulk_seats = bulk_seats
        self.others: Sequence[Board] = (board,)  # every board of this worker
        self._woken = asyncio.Event()
        self._closing = False
        self._given_back: set[asyncio.Task[None]] = set()
        self._lead_s = 0.0  # from a claim's beginning to riders that are ready, with room
        self._outage = Outage(log, f"claim jobs of {model.name}")

    def wake(self) -> None:
        """Look for work at once."""
        self._woken.set()

    def hand_over(self, handed: Handed) -> None:
        """Take in jobs that came without a claim, for seats that the last one left free."""
        self._bulk_seats.came(handed.interactive)
        if self._gate.is_open:
            self._take(handed.jobs, time.monotonic(), guests=handed.seats_left is None)
        else:  # suspects are tried, and nobody may ride with them
            task = asyncio.create_task(self._give_back(handed.jobs))
            self._given_back.add(task)
            task.add_done_callback(self._given_back.discard)
        if handed.seats_left is not None and handed.seats_left <= 0:
            self._woken.set()

    def close(self) -> None:
        """Claim nothing more; a claim under way is taken in, and so is what is handed over."""
        self._closing = True
        self._woken.set()
        self._board.close()

    async def run(self) -> None:
        """Claim as long as there is room, until closed."""
        while not self._closing:
            await self._board.until_room()
            await self._until_needed()
            await self._gate.enter()
            try:
                claim, wanted = await self._claim()
            finally:
                self._gate.leave()
            if claim is None:
                await asyncio.sleep(OUTAGE_PAUSE_S)
            elif claim.suspects and await self._try_suspects():
                continue
            elif len(claim.jobs) < wanted and not claim.more and not self._closing:
                await self._pause(REST_S if claim.held else self._idle_poll_s)

    async def _claim(self, *, trial: bool = False) -> tuple[Claim | None, int]:
        """Claim and take aboard; None while the queue's server is away. Also gives how many were wanted."""
        self._woken.clear()
        wanted = self._board.room
        asked_at = time.monotonic()
        if self._closing:
            return Claim([]), 0
        try:
            claim = await self._store.claim(
                self._model.name,
                self._model.version,
                self._worker_id,
                wanted,
                trial=trial,
                most_bulk=None if trial else self._bulk_seats.most(asked_at),
            )
        except StoreUnavailable as error:
            self._outage.began(error)
            return None, wanted
        self._outage.ended()
        self._bulk_seats.came(claim.interactive)
        self._bulk_seats.took(claim.bulk)
        self._take(claim.jobs, asked_at)
        return claim, wanted

    async def _try_suspects(self) -> bool:
        """Run one cell of suspects with nobody else aboard; tells whether there was one."""
        async with self._gate.alone(self.others):
            claim, _ = await self._claim(trial=True)
            await self._board.until_empty()
        return claim is not None and bool(claim.jobs)

    async def _give_back(self, jobs: list[Claimed]) -> None:
        with suppress(StoreUnavailable):  # then they go back when their leases end
            await self._store.release(self._worker_id, jobs)

    async def _until_needed(self) -> None:
        """While a long batch runs, claim the next no sooner than it must be: who comes meanwhile shall be in it.

        Claimed at once, the next batch would be full of whoever waits in masses, and all others one batch later.
        """
        spare_s = self._device.left_s(time.monotonic()) - self._lead_s
        if spare_s > WORTH_WAITING_S:
            await wait_for_event(self._device.freed, spare_s)

    async def _pause(self, most_s: float) -> None:
        """Nothing waits, or nothing that is to be claimed now: wait until the free seats are filled, or for a wake.

        While a batch runs, let a few arrive and claim them together.
        """
        await wait_for_event(self._woken, most_s)
        if self._device.is_busy:
            await wait_for_event(self._device.freed, self._device.last_run_s / 4)

    def _take(self, claimed: list[Claimed], asked_at: float, *, guests: bool = False) -> None:
        now = time.monotonic()
        riders = [
            Rider(job, {}, now, now + job.deadline_ms / 1000 - job.claimed_us / 1e6, is_guest=guests) for job in claimed
        ]
        for rider in riders:
            self._board.board(rider)
        if not self._model.offload:
            self._settle(riders, prepare_all(self._model, self._box, riders), asked_at)
            return
        for few in self._in_pieces(riders):
            until = max(rider.expires_at for rider in few)
            work = partial(prepare_all, self._model, self._box, few)
            prepared = self._threads.submit(Work(few[0].job.tenant, self._model.name, work, len(few), until))
            prepared.add_done_callback(partial(self._settle_later, few, asked_at))

    def _in_pieces(self, riders: list[Rider]) -> Iterator[list[Rider]]:
        """Part riders by tenant, and then into what is prepared without a pause: little, where a tenant's are slow."""
        by_tenant: dict[str, list[Rider]] = {}
        for rider in riders:
            by_tenant.setdefault(rider.job.tenant, []).append(rider)
        for tenant, own in by_tenant.items():
            apart = self._model.own_task or len(by_tenant) > 1 or self._threads.has_company(tenant)
            usual = DECODED_TOGETHER if self._model.is_noted_each else len(own)
            together = 1 if apart and self._threads.is_slow(tenant) else usual
            for at in range(0, len(own), together):
                yield own[at : at + together]

    def _settle_later(self, riders: list[Rider], asked_at: float, prepared: asyncio.Future[list[Ended | None]]) -> None:
        if not prepared.cancelled():
            self._settle(riders, prepared.result(), asked_at)

    def _settle(self, riders: list[Rider], ends: list[Ended | None], asked_at: float) -> None:
        self._lead_s = max(self._lead_s * 0.95, 2 * (time.monotonic() - asked_at) + SLACK_S)
        for rider, end in zip(riders, ends, strict=True):
            if end is None:
                self._board.seat(rider)
            else:
                self._finisher.add([end])
