"""Claims jobs of one model version, accepts handed-off ones, and preprocesses them while the device is busy."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from jobs.contract.errors import StoreUnavailable
from jobs.contract.job import LANES, ClaimedJob, ClaimResult, Handoff, Lane
from jobs.contract.lifecycle import State
from jobs.metrics.histograms import UNDECODED
from jobs.models.pauses import Pauses
from jobs.redis_client.event_wait import wait_for_event
from jobs.redis_client.outage_log import OutageLog
from jobs.redis_client.task_supervisor import TaskSupervisor
from jobs.store.job_store import JobStore
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution.bulk_quota import CLAIM_INTERVAL_S, BulkSlotShare
from worker.execution.device import Device
from worker.execution.isolation_gate import IsolationGate
from worker.execution.long_run_separation import LongRunSeparation
from worker.execution.pending_items import SIZE, CompletedItem, PendingItems, WorkItem
from worker.execution.preprocess import ITEMS_PER_DECODE, item_of, preprocess_items
from worker.execution.result_writer import ResultWriter
from worker.fair_thread_pool import FairThreadPool, Work

log = logging.getLogger("jitney.worker")

OUTAGE_PAUSE_S = 0.5
MIN_WAIT_S = 0.01  # shorter waits before a claim have no effect
SLACK_S = 0.003
PAUSED_LANE_POLL_S = 0.1  # between two claims of a model with a paused lane, whose worker is not always woken


class ClaimLoop:
    """The claim loop of one model version."""

    def __init__(
        self,
        *,
        store: JobStore,
        worker_id: str,
        model: Model,
        pending: PendingItems,
        result_writer: ResultWriter,
        device: Device,
        threads: FairThreadPool,
        journal: InFlightJournal,
        gate: IsolationGate,
        bulk_slot_share: BulkSlotShare,
        separation: LongRunSeparation,
        pauses: Pauses,
        idle_poll_s: float,
        count: Callable[[str], None],
    ) -> None:
        self._store, self._worker_id, self._model = store, worker_id, model
        self._name = f"{model.name} {model.version}"
        self._pending, self._result_writer, self._device = pending, result_writer, device
        self._threads, self._journal, self._gate, self._idle_poll_s = threads, journal, gate, idle_poll_s
        self._bulk_slot_share, self._separation = bulk_slot_share, separation
        self._pauses, self._count = pauses, count
        self.all_pending: Sequence[PendingItems] = (pending,)  # of all models of this worker
        self._woken = asyncio.Event()
        self._closing = False
        self._tasks = TaskSupervisor()
        self._lead_time_s = 0.0  # from the start of a claim until its items are ready, with slack
        self._outage = OutageLog(log, f"claim jobs of {model.name}")

    def wake(self) -> None:
        """Claim at once."""
        self._woken.set()

    def accept_handoff(self, handoff: Handoff) -> None:
        """Accept jobs that a gateway handed over, for slots that the last claim left free."""
        self._bulk_slot_share.record_interactive(handoff.interactive)
        small = [job for job in handoff.jobs if job.input is not None]
        self._accept_jobs(small)
        if len(small) < len(handoff.jobs):
            self._tasks.run(self._read_inputs([job for job in handoff.jobs if job.input is None]))
        if handoff.free_slots <= 0:
            self._woken.set()

    async def _read_inputs(self, jobs: list[ClaimedJob]) -> None:
        with suppress(StoreUnavailable):  # then they return to the queue when their leases end
            self._accept_jobs(await self._store.read_inputs(jobs))

    def _accept_jobs(self, jobs: list[ClaimedJob]) -> None:
        if self._gate.is_open and not self._is_paused:
            self._add_items(jobs, time.monotonic())
        else:  # suspects run isolated: no other job may run with them
            self._tasks.run(self._release_jobs(jobs))

    @property
    def _is_paused(self) -> bool:
        """Whether this worker, or every lane of the model, is paused."""
        state = self._pauses.state
        return self._worker_id in state.workers or len(self._paused_lanes) == len(LANES)

    @property
    def _paused_lanes(self) -> list[Lane]:
        state = self._pauses.state
        return state.lanes(self._model.name) if state.queues else []

    @property
    def _may_not_claim(self) -> bool:
        return self._name in self._separation.skipped or self._is_paused

    def close(self) -> None:
        """Stop claiming; jobs of a claim under way and handed-over jobs are still accepted."""
        self._closing = True
        self._woken.set()
        self._pending.close()

    async def finish_handoffs(self, within_s: float) -> None:
        """Wait up to `within_s` seconds for large inputs of handed-over jobs, so that a drain misses none of them."""
        await self._tasks.finish_work(within_s)

    async def run(self) -> None:
        """Claim while there is room, until closed."""
        while not self._closing:
            if self._may_not_claim:
                await self._claim_nothing()
                continue
            await self._pending.wait_for_room()
            await self._wait_until_needed()
            await self._gate.enter()
            try:
                claim, requested = await self._claim()
            finally:
                self._gate.leave()
            if claim is None:
                await asyncio.sleep(OUTAGE_PAUSE_S)
            elif claim.suspects and await self._run_suspects():
                continue
            elif claim.rows < requested and not claim.more and not self._closing:
                poll_s = min(self._idle_poll_s, PAUSED_LANE_POLL_S) if self._paused_lanes else self._idle_poll_s
                await self._pause(CLAIM_INTERVAL_S if claim.held else poll_s)

    async def _claim_nothing(self) -> None:
        """Take no jobs while other workers run this version, or its queue or this worker is paused."""
        try:
            await self._store.withdraw_free_slots(self._model.name, self._model.version, self._worker_id)
        except StoreUnavailable:
            await asyncio.sleep(OUTAGE_PAUSE_S)
            return
        while self._may_not_claim and not self._closing:
            self._woken.clear()
            await self._woken.wait()

    async def _claim(self, *, isolated: bool = False) -> tuple[ClaimResult | None, int]:
        """Claim jobs; returns the claim (None while Redis is away) and the number of rows requested."""
        self._woken.clear()
        requested = self._pending.room
        claim_started_at = time.monotonic()
        if self._closing or self._may_not_claim:
            return ClaimResult([]), 0
        try:
            claim = await self._store.claim(
                self._model.name,
                self._model.version,
                self._worker_id,
                requested,
                isolated=isolated,
                max_bulk=None if isolated else self._bulk_slot_share.bulk_limit(claim_started_at),
                paused_lane=next(iter(self._paused_lanes), None),
            )
        except StoreUnavailable as error:
            self._outage.began(error)
            return None, requested
        self._outage.ended()
        self._bulk_slot_share.record_interactive(claim.interactive)
        self._bulk_slot_share.record_bulk(claim.bulk)
        self._add_items(claim.jobs, claim_started_at)
        return claim, requested

    async def _run_suspects(self) -> bool:
        """Run one suspect group isolated from all other jobs; returns whether there was one."""
        async with self._gate.exclusive(self.all_pending):
            claim, _ = await self._claim(isolated=True)
            await self._pending.wait_until_empty()
        return claim is not None and bool(claim.jobs)

    async def _release_jobs(self, jobs: list[ClaimedJob]) -> None:
        with suppress(StoreUnavailable):  # then they return to the queue when their leases end
            await self._store.release(self._worker_id, jobs)

    async def _wait_until_needed(self) -> None:
        """While a long batch runs, delay the claim of the next one, so that jobs that arrive meanwhile can join it.

        An early claim would fill the next batch with the longest queue's jobs and delay all others by one batch.
        """
        spare_s = self._device.remaining_s(self._name, time.monotonic()) - self._lead_time_s
        if spare_s > MIN_WAIT_S:
            self._device.freed.clear()
            await wait_for_event(self._device.freed, spare_s)

    async def _pause(self, max_s: float) -> None:
        """Wait for a wake, at most `max_s` seconds, when no job is to be claimed now.

        While a batch runs, wait a little longer to claim several jobs together.
        """
        await wait_for_event(self._woken, max_s)
        if self._device.is_busy(self._name):
            self._device.freed.clear()
            await wait_for_event(self._device.freed, self._device.last_run_s(self._name) / 4)

    def _add_items(self, claimed: list[ClaimedJob], claim_started_at: float) -> None:
        now = time.monotonic()
        model = self._model
        items = [item_of(model, job, now, now + job.deadline_ms / 1000 - job.claimed_us / 1e6) for job in claimed]
        self._pending.add(*items)
        if not self._model.offload or self._is_short(claimed):
            self._settle_items(items, preprocess_items(self._model, self._journal, items), claim_started_at)
            return
        for chunk in self._split_by_tenant(items):
            until = max(item.expires_at for item in chunk)
            work = partial(preprocess_items, self._model, self._journal, chunk)
            inputs = sum(map(SIZE, chunk))
            future = self._threads.submit(Work(chunk[0].job.tenant, self._model.name, work, inputs, until))
            future.add_done_callback(partial(self._on_preprocessed, chunk, claim_started_at))

    def _is_short(self, claimed: list[ClaimedJob]) -> bool:
        """Return whether preprocessing these jobs here takes less time than a switch of threads."""
        limit = self._model.inline_bytes
        return bool(limit) and sum(len(job.input or b"") for job in claimed) <= limit

    def _split_by_tenant(self, items: list[WorkItem]) -> Iterator[list[WorkItem]]:
        """Split items by tenant, then into chunks that are preprocessed in one go: single jobs if a tenant is slow."""
        by_tenant: dict[str, list[WorkItem]] = {}
        for item in items:
            by_tenant.setdefault(item.job.tenant, []).append(item)
        for tenant, tenant_items in by_tenant.items():
            may_split = self._model.has_custom_task or len(by_tenant) > 1 or self._threads.has_other_tenants(tenant)
            default_size = ITEMS_PER_DECODE if self._model.is_journaled_singly else sum(map(SIZE, tenant_items))
            chunk_size = 1 if may_split and self._threads.is_slow(tenant) else default_size
            chunk: list[WorkItem] = []
            for item in tenant_items:
                chunk.append(item)
                if sum(map(SIZE, chunk)) >= chunk_size:
                    yield chunk
                    chunk = []
            if chunk:
                yield chunk

    def _on_preprocessed(
        self, items: list[WorkItem], claim_started_at: float, future: asyncio.Future[list[CompletedItem | None]]
    ) -> None:
        if not future.cancelled():
            self._settle_items(items, future.result(), claim_started_at)

    def _settle_items(self, items: list[WorkItem], ends: list[CompletedItem | None], claim_started_at: float) -> None:
        self._lead_time_s = max(self._lead_time_s * 0.95, 2 * (time.monotonic() - claim_started_at) + SLACK_S)
        if failed := [end for end in ends if end is not None]:
            self._result_writer.add(failed)
            for end in failed:
                if end.outcome.state is State.FAILED:
                    self._count(f"{UNDECODED}:{end.item.job.kind}")
            items = [item for item, end in zip(items, ends, strict=True) if end is None]
        self._pending.mark_ready(*items)
