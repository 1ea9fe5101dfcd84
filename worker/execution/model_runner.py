"""One model version's place in a worker, and its loops: intake → board → inference → finisher."""

from collections.abc import Sequence
from typing import NamedTuple

from batching.batcher import BatchLimits
from jobs.metrics.histograms import HistogramBuffer
from jobs.store.job_store import JobStore
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution import device as inference
from worker.execution.batch_run import RunContext
from worker.execution.bulk_quota import BulkSlotShare
from worker.execution.claim_loop import ClaimLoop
from worker.execution.device import Device
from worker.execution.inline_runs import InlineRunPolicy
from worker.execution.isolation_gate import IsolationGate
from worker.execution.pending_items import PendingItems
from worker.execution.postprocess import Postprocessor
from worker.execution.result_writer import ResultWriter
from worker.fair_thread_pool import FairThreadPool
from worker.settings import WorkerSettings
from worker.task_supervisor import TaskSupervisor


class WorkerResources(NamedTuple):
    """What all stations of a worker share."""

    worker_id: str
    settings: WorkerSettings
    store: JobStore
    device: Device
    gate: IsolationGate
    journal: InFlightJournal
    threads: FairThreadPool


def version_key(model: Model) -> str:
    """Name a model version as workers, gateways and scripts call it."""
    return f"{model.name} {model.version}"


class ModelRunner:
    """Runs once it is started; closed, it takes nobody in any more, and whoever is aboard arrives."""

    def __init__(self, resources: WorkerResources, model: Model, pending_items: Sequence[PendingItems]) -> None:
        """`pending_items`: those of all stations, as they come and go."""
        limits = BatchLimits(max_items=model.max_batch, max_wait_s=model.max_wait_s)
        # Small batches of large images: each thread that decodes wants one in hands, and one to go on with.
        ahead = 2 * resources.settings.decode_threads if model.offload else 1
        self.model, self.pending, self.histogram_buffer = model, PendingItems(limits, ahead=ahead), HistogramBuffer()
        self.device = resources.device
        inline_policy = InlineRunPolicy(model.inputs, runs_custom_code=model.has_custom_task or model.has_custom_engine)
        self.run_context = RunContext(model, self.pending.ceilings, resources.journal, inline_policy)
        backlog = 2 * self.pending.max_pending
        self.result_writer = ResultWriter(
            resources.store, resources.worker_id, self.pending, self.histogram_buffer, backlog
        )
        self.postprocessor = Postprocessor(self.run_context, self.result_writer, resources.threads)
        self.claim_loop = ClaimLoop(
            store=resources.store,
            worker_id=resources.worker_id,
            model=model,
            pending=self.pending,
            result_writer=self.result_writer,
            device=resources.device,
            threads=resources.threads,
            journal=resources.journal,
            gate=resources.gate,
            bulk_slot_share=BulkSlotShare(inline_policy, self.pending.max_pending, resources.store.settings.bulk_share),
            idle_poll_s=resources.settings.idle_poll_s,
        )
        self.claim_loop.all_pending = pending_items

    def start(self, loops: TaskSupervisor) -> None:
        """Take jobs from now on."""
        self.claim_task = loops.start(self.claim_loop.run())
        serving = inference.run_batches(
            self.run_context, self.pending, self.device, self.result_writer, self.postprocessor
        )
        self.loop_tasks = [loops.start(self.result_writer.run()), loops.start(serving)]
