"""One worker process: which loops it has, in which order they start, and in which they stop."""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from jobs.config.settings_agreement import Agreement, Process
from jobs.contract.errors import StoreUnavailable
from jobs.contract.job import Claimed, Handed
from jobs.metrics import cpu_time, heap_trim
from jobs.models import rollout_plan, worker_registry
from jobs.models.worker_registry import WorkerReport
from jobs.redis_client import keys
from jobs.redis_client.pubsub import Listener
from jobs.store import codec
from jobs.store.job_store import JobStore
from jobs.tenants import stored_limits
from jobs.tenants.stored_limits import TenantLimits
from worker.crash_recovery.in_flight_journal import BlackBox
from worker.execution.device import EX_SOFTWARE, Device
from worker.execution.isolation_gate import Gate
from worker.execution.model_runner import Shared
from worker.fair_thread_pool import Turns
from worker.heartbeat import lease_renewal
from worker.heartbeat.registration import BEATS_TO_LIVE, Announcer, run_stats, tell_stats
from worker.settings import WorkerSettings
from worker.task_supervisor import Loops
from worker.versions.digest_agreement import SameFiles
from worker.versions.load_crash_log import LoadNotes
from worker.versions.loaded_models import Depot
from worker.versions.reconciler import Keeper

log = logging.getLogger("jitney.worker")

HELD = 6  # times STUCK_S
MOST_RIDERS = 4096  # of one batch, as model.toml may have it: who is in hands must find room in the black box


class Runtime:
    """Starts the loops, and on stop drains: claims nothing more, runs and writes what is aboard, says goodbye."""

    def __init__(self, settings: WorkerSettings, store: JobStore, black_box: Path | None = None) -> None:
        self.id = secrets.token_hex(8)
        self.settings, self.store = settings, store
        self.device, self.loops = Device(settings.stuck_s), Loops()
        self.threads = Turns(settings.decode_threads)
        threads = self.threads.size + 2  # the device's, and the loop's
        self.box = BlackBox(black_box, self.id, threads, max(2 * settings.decode_threads, MOST_RIDERS))
        self.meter = cpu_time.Meter(cpu_time.WORKER)
        channels = [keys.wake_channel(self.id), keys.NEWS]
        self.listener = Listener(store.connection, channels, self._on_notice, self._wake_all)
        shared = Shared(self.id, settings, store, self.device, Gate(), self.box, self.threads)
        self.depot = Depot(shared, self.loops, self.listener.catch_up)
        # A lease must be renewed in time, whatever LEASE_S and BEAT_S are set to.
        self._beat_s = min(settings.beat_s, store.settings.lease_s / 4)
        self.same_files = SameFiles(store.connection, self.id, self._beat_s * BEATS_TO_LIVE)
        self.announcer = Announcer(store.connection, self._report, self.depot.stations, self.same_files, self._beat_s)
        notes = LoadNotes(black_box and black_box.with_name(f"{black_box.name}.loads"))
        self.keeper = Keeper(settings, store, self.depot, self.announcer, notes, same_files=self.same_files)
        self.same_files.on_overruled = self.keeper.look_again
        me = Process.this("worker", self.id, settings, store.settings)
        self.agreement = Agreement(store.connection, me, store.settings.shards, self._beat_s)
        self.limits = TenantLimits(store.connection, store.tenants)
        self._given_back: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Wait for the queue, and load what is wanted; raises ShardsDiffer."""
        await self.agreement.until_known()
        await self.limits.until_known()
        await self.keeper.begin()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain. Raises what ended a loop that should not end."""
        self.depot.open()
        beats = lease_renewal.run(self.store, self.id, self.depot.boards, self.device, self._beat_s)
        stats = run_stats(self.store.connection, self.depot.stations, self.meter, self.settings.stats_s)
        looking = (self.agreement.keep_looking(), self.limits.run(self._beat_s))
        watching = (self._watch_threads(), heap_trim.run(self._beat_s))
        for loop in (beats, stats, *looking, *watching, self.announcer.run(), self.listener.run()):
            self.loops.start(loop)
        keeping = self.loops.start(self.keeper.run())
        waits = [asyncio.create_task(event.wait()) for event in (stop, self.loops.ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self.box.disarm()
        await self.loops.cancel([keeping])
        await self.depot.close()
        await self.loops.cancel()
        await self._say_goodbye()
        self.loops.check()

    async def _watch_threads(self) -> None:
        """End this process where no thread is left for inputs: a user's code that never ends cannot be stopped."""
        while True:
            await asyncio.sleep(self.settings.beat_s)
            if self.threads.are_all_held(HELD * self.settings.stuck_s):
                log.critical(
                    "all %d threads run code whose jobs have ended long ago, this worker ends", self.threads.size
                )
                os._exit(EX_SOFTWARE)

    async def _say_goodbye(self) -> None:
        self.device.close()
        self.threads.close()
        try:
            await tell_stats(self.store.connection, self.depot.stations, self.meter)
            await worker_registry.withdraw(self.store.connection, self.id)
            await self.same_files.forget([*self.same_files.announced])
            await self.agreement.withdraw()
        except StoreUnavailable as error:
            log.warning("left without a word: %s", error)

    def _report(self) -> WorkerReport:
        ceilings = {name: station.board.ceilings.report() for name, station in self.depot.stations.items()}
        keeper = self.keeper
        return WorkerReport(
            id=self.id,
            pid=os.getpid(),
            host=socket.gethostname(),
            models=list(self.depot.stations),
            failed=dict(keeper.broken),
            unloadable=keeper.unloadable,
            ceilings={n: c for n, c in ceilings.items() if c},
            chosen=dict(keeper.chosen),
            leaving=list(keeper.leaving),
            loading=list(keeper.loading),
            shelf=keeper.versions,
            digests=dict(self.same_files.announced),
            lease_s=self.store.settings.lease_s,
        )

    def _on_notice(self, channel: str, words: bytes) -> None:
        """A model version has work; or here it is; or, with a minus, a job of ours was canceled or expired."""
        if channel == keys.NEWS:
            if words == rollout_plan.NEWS:
                self.keeper.look_again()
            elif words == stored_limits.NEWS:
                self.limits.look_again()
            return
        try:
            if words.startswith(codec.HANDED):
                self._hand_over(*codec.read_handed(words))
            elif words.startswith(b"-"):
                self._dismiss(words[1:].decode())
            elif station := self.depot.stations.get(words.decode()):
                station.intake.wake()
        except ValueError as error:
            log.warning("a wake can not be understood: %r", error)

    def _hand_over(self, name: str, handed: Handed) -> None:
        if station := self.depot.stations.get(name):
            station.intake.hand_over(handed)
            return
        task = asyncio.create_task(self._give_back(name, handed.jobs))
        self._given_back.add(task)
        task.add_done_callback(self._given_back.discard)

    async def _give_back(self, name: str, jobs: Sequence[Claimed]) -> None:
        log.warning("%d jobs of %s were handed over, which is not run here: they go back", len(jobs), name)
        with suppress(StoreUnavailable):  # then they go back when their leases end
            await self.store.release(self.id, jobs)

    def _dismiss(self, job_id: str) -> None:
        for board in self.depot.boards:
            board.dismiss(job_id)
            self.device.stop_if_deserted(board)

    async def _wake_all(self) -> None:
        self.keeper.look_again()
        self.limits.look_again()
        for station in self.depot.stations.values():
            station.intake.wake()
