"""Runs one model version in a worker: claim loop → pending items → device → postprocessor → result writer."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from batching.batcher import BatchLimits
from jobs.metrics.histograms import HistogramBuffer
from jobs.models.pauses import Pauses
from jobs.redis_client.task_supervisor import TaskSupervisor
from jobs.store.job_store import JobStore
from jobs.store.outputs import OutputWriter
from jobs.tracing.tracer import Tracer
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution import device as inference
from worker.execution.batch_recorder import BatchRecorder
from worker.execution.batch_run import RunContext
from worker.execution.bulk_quota import BulkSlotShare
from worker.execution.claim_loop import ClaimLoop
from worker.execution.device import Device
from worker.execution.inline_runs import InlineRunPolicy
from worker.execution.isolation_gate import IsolationGate
from worker.execution.job_spans import JobSpans
from worker.execution.long_run_separation import LongRunSeparation
from worker.execution.pending_items import PendingItems
from worker.execution.postprocess import Postprocessor
from worker.execution.result_writer import ResultWriter
from worker.fair_thread_pool import FairThreadPool
from worker.settings import WorkerSettings


class WorkerResources(NamedTuple):
    """Resources that all model runners of a worker share."""

    worker_id: str
    settings: WorkerSettings
    store: JobStore
    device: Device
    gate: IsolationGate
    journal: InFlightJournal
    threads: FairThreadPool
    separation: LongRunSeparation
    pauses: Pauses
    output_writer: OutputWriter
    encoder: asyncio.Lock  # held while a large output is encoded
    tracer: Tracer | None  # None: no spans are exported


def version_key(model: Model) -> str:
    """Return the name of a model version: `<name> <version>`, as in Redis and in the gateways."""
    return f"{model.name} {model.version}"


class ModelRunner:
    """The loops of one model version. Once `claim_loop` is closed, they finish the claimed jobs and claim no others."""

    def __init__(self, resources: WorkerResources, model: Model, pending_items: Sequence[PendingItems]) -> None:
        """Create a runner. `pending_items`: those of all runners of the worker; the list changes over time."""
        limits = BatchLimits(model.max_batch, model.max_batch_cost, model.max_wait_s, model.run_overhead)
        # For small batches of large images: each decode thread has one image in work and one waiting.
        of_threads = 2 * resources.settings.decode_threads if model.offload else 1
        ahead = max(of_threads, model.prefetched_batches * model.max_batch)
        self.model, self.pending, self.histogram_buffer = model, PendingItems(limits, ahead=ahead), HistogramBuffer()
        self.device = resources.device
        inline_policy = InlineRunPolicy(model.inputs, runs_custom_code=model.runs_custom_code)
        spans = JobSpans(resources.tracer, model.name, model.version) if resources.tracer else None
        self.run_context = RunContext(
            model,
            self.pending.ceilings,
            resources.journal,
            inline_policy,
            resources.store.settings.output_chunk_bytes,
            BatchRecorder(version_key(model), self.histogram_buffer, spans).record,
        )
        self.result_writer = ResultWriter(
            resources.store,
            resources.worker_id,
            self.pending,
            self.histogram_buffer,
            backlog=2 * self.pending.max_pending,
            output_writer=resources.output_writer,
            spans=spans,
        )
        self.postprocessor = Postprocessor(self.run_context, self.result_writer, resources.threads, resources.encoder)
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
            separation=resources.separation,
            pauses=resources.pauses,
            idle_poll_s=resources.settings.idle_poll_s,
            count=self.histogram_buffer.count,
        )
        self.claim_loop.all_pending = pending_items

    def start(self, supervisor: TaskSupervisor) -> None:
        """Start to claim and run jobs."""
        self.claim_task = supervisor.start(self.claim_loop.run())
        running = inference.run_batches(
            self.run_context, self.pending, self.device, self.result_writer, self.postprocessor
        )
        self.loop_tasks = [supervisor.start(self.result_writer.run()), supervisor.start(running)]
