"""One worker: starts and stops its loops in order, passes on handoffs and cancellations, exits if threads are stuck."""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from jobs.config.settings_agreement import Process, SettingsAgreement
from jobs.contract.errors import StoreUnavailable
from jobs.contract.job import ClaimedJob, Handoff
from jobs.metrics import cpu_time, heap_trim
from jobs.models import pauses, rollout_plan, worker_registry
from jobs.models.pauses import Pauses
from jobs.models.worker_registry import WorkerReport
from jobs.redis_client import keys
from jobs.redis_client.event_wait import run_until_stopped
from jobs.redis_client.pubsub import Subscriber
from jobs.redis_client.task_supervisor import TaskSupervisor
from jobs.store import codec
from jobs.store.job_store import JobStore
from jobs.store.outputs import OutputWriter
from jobs.tenants import stored_limits
from jobs.tenants.stored_limits import StoredLimits
from worker import heartbeat
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution.device import EX_SOFTWARE, Device
from worker.execution.isolation_gate import IsolationGate
from worker.execution.long_run_separation import LongRunSeparation
from worker.execution.model_runner import WorkerResources
from worker.fair_thread_pool import FairThreadPool
from worker.settings import WorkerSettings
from worker.versions.digest_agreement import DigestAgreement
from worker.versions.load_crash_log import LoadCrashLog
from worker.versions.loaded_models import LoadedModels
from worker.versions.reconciler import ModelReconciler

log = logging.getLogger("jitney.worker")

STUCK_THREADS_FACTOR = 6  # times JITNEY_RUN_STOP_TIMEOUT_S
MAX_BATCH_ITEMS = 4096  # largest batch size in model.toml: the in-flight journal must have room for a whole batch


class Worker:
    """Runs the loops. On stop it drains: claims no more, finishes the claimed jobs, and deregisters."""

    def __init__(self, settings: WorkerSettings, store: JobStore, journal: Path | None = None) -> None:
        self.id = secrets.token_hex(8)
        self.settings, self.store, self._started_s = settings, store, 0
        self.device = Device(settings.run_stop_timeout_s, settings.max_concurrent_runs)
        self.supervisor = TaskSupervisor()
        self.threads = FairThreadPool(settings.decode_threads)
        threads = self.threads.size + settings.max_concurrent_runs + 1  # plus device threads and the event loop
        self.journal = InFlightJournal(journal, self.id, threads, max(2 * settings.decode_threads, MAX_BATCH_ITEMS))
        self.meter = cpu_time.CpuMeter(cpu_time.WORKER)
        channels = [keys.wake_channel(self.id), keys.INVALIDATION]
        self.listener = Subscriber(store.connection, channels, self._on_notification, self._wake_all)
        output_writer = OutputWriter(store.connection, store.settings.lease_s, store.settings.output_watermark)
        # A lease must be renewed in time, whatever JITNEY_LEASE_S and JITNEY_HEARTBEAT_S are set to.
        interval_s = self._heartbeat_interval_s = min(settings.heartbeat_s, store.settings.lease_s / 4)
        self.separation = LongRunSeparation(store, self.id, self._wake_claim_loops)
        self.pauses = Pauses(store.connection, self._on_pauses_changed)
        resources = WorkerResources(
            self.id,
            settings,
            store,
            self.device,
            IsolationGate(),
            self.journal,
            self.threads,
            self.separation,
            self.pauses,
            output_writer,
            asyncio.Lock(),
        )
        self.loaded_models = LoadedModels(resources, self.supervisor, self.listener.catch_up)
        self.digest_agreement = DigestAgreement(store.connection, self.id, interval_s * heartbeat.HEARTBEATS_TO_LIVE)
        self.registration = heartbeat.WorkerRegistration(
            store.connection, self._report, self.loaded_models.runners, self.digest_agreement, interval_s
        )
        crash_log = LoadCrashLog(journal and journal.with_name(f"{journal.name}.loads"))
        self.reconciler = ModelReconciler(
            settings, store, self.loaded_models, self.registration, crash_log, digest_agreement=self.digest_agreement
        )
        self.digest_agreement.on_overruled = self.reconciler.refresh_now
        this_process = Process.this("worker", self.id, settings, store.settings)
        self.agreement = SettingsAgreement(store.connection, this_process, store.settings.shards, interval_s)
        self.limits = StoredLimits(store.connection, store.tenants)

    async def begin(self) -> None:
        """Wait for the queue and load the desired model versions; raises QueueMismatch."""
        await self.agreement.wait_until_known()
        await self.limits.wait_until_known()
        await self.pauses.wait_until_known()
        with suppress(StoreUnavailable):
            self._started_s = await self.store.connection.now_ms() // 1000
        await self.reconciler.begin()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then drain; raises the error of a loop that ended unexpectedly."""
        self.loaded_models.open()
        interval_s, pending_items = self._heartbeat_interval_s, self.loaded_models.pending_items
        renew = partial(heartbeat.renew_leases, self.store, self.id, pending_items, self.device)
        renewals = heartbeat.run_periodically(renew, interval_s, "renew leases")
        metrics = heartbeat.run_periodically(self._flush_metrics, self.settings.metrics_flush_s, "flush metrics")
        refreshes = (self.agreement.run_until_mismatch(), self.limits.run(interval_s), self.pauses.run(interval_s))
        watchdogs = (self._watch_threads(), heap_trim.run(interval_s))
        for loop in (renewals, metrics, *refreshes, *watchdogs, self.registration.run(), self.listener.run()):
            self.supervisor.start(loop)
        if self.settings.separate_long_runs:
            separation = heartbeat.run_periodically(
                self.separation.decide, interval_s, "decide which versions to claim"
            )
            self.supervisor.start(separation)
        reconciling = self.supervisor.start(self.reconciler.run())
        await run_until_stopped(self.supervisor.wait_for_failure(), stop)
        self.journal.disable()
        await self.supervisor.cancel([reconciling])
        await self.loaded_models.close()
        await self.supervisor.cancel()
        await self._deregister()
        self.supervisor.raise_failures()

    async def _watch_threads(self) -> None:
        """Exit if every thread runs expired work: custom code that never ends cannot be stopped."""
        while True:
            await asyncio.sleep(self.settings.heartbeat_s)
            if self.threads.are_all_stuck(STUCK_THREADS_FACTOR * self.settings.run_stop_timeout_s):
                log.critical(
                    "all %d threads run code of jobs that expired long ago; this worker exits", self.threads.size
                )
                os._exit(EX_SOFTWARE)

    async def _flush_metrics(self) -> None:
        await heartbeat.flush_metrics(self.store, self.loaded_models.runners, self.meter)

    async def _deregister(self) -> None:
        self.device.close()
        self.threads.close()
        try:
            await self._flush_metrics()
            await worker_registry.deregister_worker(self.store.connection, self.id)
            if self.id in self.pauses.state.workers:
                await pauses.resume_worker(self.store.connection, self.id)
            await self.digest_agreement.forget([*self.digest_agreement.announced])
            await self.agreement.withdraw()
        except StoreUnavailable as error:
            log.warning("cannot deregister this worker: %s", error)

    def _report(self) -> WorkerReport:
        ceilings = {name: runner.pending.ceilings.report() for name, runner in self.loaded_models.runners.items()}
        reconciler = self.reconciler
        return WorkerReport(
            id=self.id,
            pid=os.getpid(),
            host=socket.gethostname(),
            models=list(self.loaded_models.runners),
            failed=dict(reconciler.broken),
            unloadable=reconciler.unloadable,
            ceilings={n: c for n, c in ceilings.items() if c},
            chosen=dict(reconciler.chosen),
            leaving=list(reconciler.leaving),
            loading=list(reconciler.loading),
            folder_versions=reconciler.versions,
            digests=dict(self.digest_agreement.announced),
            lease_s=self.store.settings.lease_s,
            ttl_s=self._heartbeat_interval_s * heartbeat.HEARTBEATS_TO_LIVE,
            started_s=self._started_s,
            is_paused=self.id in self.pauses.state.workers,
            running={
                name: n for name, runner in self.loaded_models.runners.items() if (n := len(runner.pending.held()))
            },
            devices={name: runner.model.card()["device"] for name, runner in self.loaded_models.runners.items()},
            memory_bytes=heap_trim.resident_bytes(),
            run_s={name: seconds for name in self.loaded_models.runners if (seconds := self.device.usual_run_s(name))},
        )

    def _on_notification(self, channel: str, payload: bytes) -> None:
        """Handle a notification: a version with work, a handoff, a job to cancel (minus sign), or an invalidation."""
        if channel == keys.INVALIDATION:
            if payload == rollout_plan.PLANS_CHANGED:
                self.reconciler.refresh_now()
            elif payload == stored_limits.LIMITS_CHANGED:
                self.limits.refresh_now()
            elif payload == pauses.PAUSES_CHANGED:
                self.pauses.refresh_now()
            return
        try:
            if payload.startswith(codec.HANDOFF_PREFIX):
                self._accept_handoff(*codec.read_handoff(payload))
            elif payload.startswith(b"-"):
                self._cancel_job(payload[1:].decode())
            elif runner := self.loaded_models.runners.get(payload.decode()):
                runner.claim_loop.wake()
        except ValueError as error:
            log.warning("ignored a malformed notification: %r", error)

    def _accept_handoff(self, name: str, handoff: Handoff) -> None:
        if runner := self.loaded_models.runners.get(name):
            runner.claim_loop.accept_handoff(handoff)
        else:
            self.supervisor.run(self._release_jobs(name, handoff.jobs))

    async def _release_jobs(self, name: str, jobs: Sequence[ClaimedJob]) -> None:
        log.warning("released %d jobs of %s that were handed over: this worker does not run the model", len(jobs), name)
        with suppress(StoreUnavailable):  # then they return to the queue when their leases end
            await self.store.release(self.id, jobs)

    def _cancel_job(self, job_id: str) -> None:
        for pending in self.loaded_models.pending_items:
            pending.cancel(job_id)
            self.device.stop_if_abandoned(pending)

    async def _wake_all(self) -> None:
        self.reconciler.refresh_now()
        self.limits.refresh_now()
        self.pauses.refresh_now()
        self._wake_claim_loops()

    def _on_pauses_changed(self) -> None:
        state = self.pauses.state
        paused = sorted(f"{model} {lane}" for model, lane in state.queues)
        log.info(
            "paused: %s", ", ".join([*(["this worker"] if self.id in state.workers else []), *paused]) or "nothing"
        )
        self._wake_claim_loops()
        self.registration.changed()

    def _wake_claim_loops(self) -> None:
        for runner in self.loaded_models.runners.values():
            runner.claim_loop.wake()
