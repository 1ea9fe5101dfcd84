"""One worker process: which loops it has, in which order they start, and in which they stop."""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from batching.batcher import BatchLimits
from jobs import codec, cpu, keys, registry
from jobs.errors import StoreUnavailable
from jobs.notices import Listener
from jobs.registry import WorkerReport
from jobs.stats import Tally
from jobs.store import JobStore
from worker import announcing, inference, leases
from worker.batch_run import Bench
from worker.blackbox import BlackBox
from worker.board import Board
from worker.finishing import Finisher
from worker.gate import Gate
from worker.inference import Device
from worker.intake import Intake
from worker.models.model import Model
from worker.settings import WorkerSettings
from worker.short_runs import ShortRuns

log = logging.getLogger("jitney.worker")


class Station:
    """One model's loops: intake → board → inference → finisher."""

    def __init__(self, runtime: "Runtime", model: Model) -> None:
        limits = BatchLimits(max_items=model.max_batch, max_wait_s=model.max_wait_s)
        # Small batches of large images: each thread that decodes wants one in hands, and one to go on with.
        ahead = 2 * runtime.settings.decode_threads if model.offload else 1
        self.model, self.board, self.tally = model, Board(limits, ahead=ahead), Tally()
        self.bench = Bench(model, self.board.ceilings, runtime.box, ShortRuns(model.inputs))
        self.finisher = Finisher(runtime.store, runtime.id, self.board, self.tally, backlog=2 * self.board.most_ahead)
        self.intake = Intake(
            store=runtime.store,
            worker_id=runtime.id,
            model=model,
            board=self.board,
            finisher=self.finisher,
            device=runtime.device,
            decoders=runtime.decoders,
            box=runtime.box,
            gate=runtime.gate,
            idle_poll_s=runtime.settings.idle_poll_s,
        )


class Runtime:
    """Starts the loops, and on stop drains: claims nothing more, runs and writes what is aboard, says goodbye."""

    def __init__(
        self,
        settings: WorkerSettings,
        store: JobStore,
        models: Sequence[Model],
        failed: Mapping[str, str],
        black_box: Path | None = None,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.settings, self.store, self._failed = settings, store, dict(failed)
        self.device, self.gate = Device(settings.stuck_s), Gate()
        most = max([2 * settings.decode_threads, *(model.max_batch for model in models)])
        threads = settings.decode_threads + 2  # the device's, and the loop's
        self.box = BlackBox(black_box, self.id, threads, most)
        self.meter = cpu.Meter(cpu.WORKER)
        self.decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        self.stations = {f"{model.name} {model.version}": Station(self, model) for model in models}
        for station in self.stations.values():
            station.intake.others = self._boards

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain. Raises what ended a loop that should not end."""
        connection, settings = self.store.connection, self.settings
        stations = self.stations.values()
        boards = self._boards
        tallies = {station.model.name: station.tally for station in stations}
        listener = Listener(connection, [keys.wake_channel(self.id)], self._on_wake, self._wake_all)
        intakes = [_start(station.intake.run()) for station in stations]
        loops = [
            *(_start(station.finisher.run()) for station in stations),
            *(_start(inference.serve(s.bench, s.board, self.device, s.finisher)) for s in stations),
            _start(leases.run(self.store, self.id, boards, self.device, settings.beat_s)),
            _start(announcing.run_beats(connection, self._report, [s.model for s in stations], settings.beat_s)),
            _start(announcing.run_stats(connection, tallies, self.meter, settings.stats_s)),
            _start(listener.run()),
        ]
        await asyncio.wait([*intakes, *loops, _start(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        self.box.disarm()
        failures = [task.exception() for task in (*intakes, *loops) if task.done()]
        for station in stations:
            station.intake.close()
        # Not cut off in a claim: its jobs would wait for their leases' end.
        if intakes:
            await asyncio.wait(intakes, timeout=self.store.settings.redis_timeout_s)
        await _cancel(intakes)
        await self._leave_seats(listener)
        await self._drain(boards)
        await _cancel(loops)
        await self._say_goodbye(tallies)
        for failure in failures:
            raise failure or RuntimeError("a loop of the worker ended by itself")

    async def _leave_seats(self, listener: Listener) -> None:
        """Let nothing more be handed over, and hear what was."""
        try:
            for station in self.stations.values():
                await self.store.leave_seats(station.model.name, station.model.version, self.id)
            await listener.catch_up()
        except StoreUnavailable as error:
            log.warning("jobs may still be handed over, and go back when their leases end: %s", error)

    async def _drain(self, boards: Sequence[Board]) -> None:
        deadline = asyncio.get_running_loop().time() + self.settings.drain_s
        while any(not board.is_empty for board in boards):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.01)
        for board in boards:
            if held := board.held():
                log.warning("drained for %g s; %d jobs go back to the queue", self.settings.drain_s, len(held))
                with suppress(StoreUnavailable):  # then they go back when their leases end
                    await self.store.release(self.id, held)

    async def _say_goodbye(self, tallies: Mapping[str, Tally]) -> None:
        self.device.close()
        self.decoders.shutdown(wait=False, cancel_futures=True)
        try:
            await announcing.tell_stats(self.store.connection, tallies, self.meter)
            await registry.withdraw(self.store.connection, self.id)
        except StoreUnavailable as error:
            log.warning("left without a word: %s", error)

    @property
    def _boards(self) -> list[Board]:
        return [station.board for station in self.stations.values()]

    def _report(self) -> WorkerReport:
        ceilings = {name: station.board.ceilings.report() for name, station in self.stations.items()}
        return WorkerReport(
            self.id,
            os.getpid(),
            socket.gethostname(),
            list(self.stations),
            self._failed,
            {n: c for n, c in ceilings.items() if c},
        )

    def _on_wake(self, _channel: str, words: bytes) -> None:
        """A model version has work; with a plus, here it is; with a minus, a job of ours was canceled or expired."""
        try:
            if words.startswith(b"+"):
                name, seats_left, jobs = codec.read_handed(words)
                self.stations[name].intake.hand_over(jobs, seats_left)
            elif words.startswith(b"-"):
                self._dismiss(words[1:].decode())
            else:
                self.stations[words.decode()].intake.wake()
        except (ValueError, KeyError) as error:
            log.warning("a wake can not be understood: %r", error)

    def _dismiss(self, job_id: str) -> None:
        for board in self._boards:
            board.dismiss(job_id)
            self.device.stop_if_deserted(board)

    async def _wake_all(self) -> None:
        for station in self.stations.values():
            station.intake.wake()


def _start(loop: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(loop)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
