"""One model version's place in a worker, and its loops: intake → board → inference → finisher."""

from collections.abc import Sequence
from typing import NamedTuple

from batching.batcher import BatchLimits
from jobs.metrics.histograms import Tally
from jobs.store.job_store import JobStore
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import BlackBox
from worker.execution import device as inference
from worker.execution.batch_run import Bench
from worker.execution.bulk_quota import BulkSeats
from worker.execution.claim_loop import Intake
from worker.execution.device import Device
from worker.execution.inline_runs import ShortRuns
from worker.execution.isolation_gate import Gate
from worker.execution.pending_items import Board
from worker.execution.postprocess import Showing
from worker.execution.result_writer import Finisher
from worker.fair_thread_pool import Turns
from worker.settings import WorkerSettings
from worker.task_supervisor import Loops


class Shared(NamedTuple):
    """What all stations of a worker share."""

    worker_id: str
    settings: WorkerSettings
    store: JobStore
    device: Device
    gate: Gate
    box: BlackBox
    threads: Turns


def name_of(model: Model) -> str:
    """Name a model version as workers, gateways and scripts call it."""
    return f"{model.name} {model.version}"


class Station:
    """Runs once it is started; closed, it takes nobody in any more, and whoever is aboard arrives."""

    def __init__(self, shared: Shared, model: Model, boards: Sequence[Board]) -> None:
        """`boards`: those of all stations, as they come and go."""
        limits = BatchLimits(max_items=model.max_batch, max_wait_s=model.max_wait_s)
        # Small batches of large images: each thread that decodes wants one in hands, and one to go on with.
        ahead = 2 * shared.settings.decode_threads if model.offload else 1
        self.model, self.board, self.tally = model, Board(limits, ahead=ahead), Tally()
        self.device = shared.device
        short_runs = ShortRuns(model.inputs, own_code=model.own_task or model.own_engine)
        self.bench = Bench(model, self.board.ceilings, shared.box, short_runs)
        backlog = 2 * self.board.most_ahead
        self.finisher = Finisher(shared.store, shared.worker_id, self.board, self.tally, backlog)
        self.showing = Showing(self.bench, self.finisher, shared.threads)
        self.intake = Intake(
            store=shared.store,
            worker_id=shared.worker_id,
            model=model,
            board=self.board,
            finisher=self.finisher,
            device=shared.device,
            threads=shared.threads,
            box=shared.box,
            gate=shared.gate,
            bulk_seats=BulkSeats(short_runs, self.board.most_ahead, shared.store.settings.bulk_share),
            idle_poll_s=shared.settings.idle_poll_s,
        )
        self.intake.others = boards

    def start(self, loops: Loops) -> None:
        """Take jobs from now on."""
        self.claiming = loops.start(self.intake.run())
        serving = inference.serve(self.bench, self.board, self.device, self.finisher, self.showing)
        self.others = [loops.start(self.finisher.run()), loops.start(serving)]
