"""Records the spans of jobs that have a place in a trace: queue, preprocess, infer, write back, and of their batch."""

from collections.abc import Sequence

from jobs.tracing.tracer import Attributes, Clock, Tracer
from worker.execution.batch_run import BatchRun
from worker.execution.pending_items import CompletedItem, WorkItem


class JobSpans:
    """Records the spans of one model version."""

    def __init__(self, tracer: Tracer, model: str, version: str) -> None:
        self._tracer = tracer
        self._same: Attributes = {"jitney.model": model, "jitney.version": version}

    def ran(self, run: BatchRun, reason: str, seconds: float) -> None:
        """Record a batch that has just run, in a trace of its own that is linked to its jobs, and their runs."""
        traced = _traced(run.items)
        if not traced:
            return
        clock = Clock()
        ended, began = clock.now_ns, clock.now_ns - int(seconds * 1e9)
        batch: Attributes = {**self._same, "jitney.batch.items": len(run.items), "jitney.batch.closed": reason}
        own = self._tracer.record("batch", "", (began, ended), batch, [*traced.values()])
        infer_ms = sum(infer_ms for _, infer_ms in run.batches)
        until = min(ended, began + int(infer_ms * 1e6)) if run.batches else ended
        for job_id, parent in traced.items():
            attributes = {**batch, "jitney.job.id": job_id}
            self._tracer.record("infer", parent, (began, until), attributes, [own] if own else [])

    def written(self, completed: Sequence[CompletedItem], write_began: float) -> None:
        """Record what happened to jobs before and after their run; `write_began`: on the monotonic clock."""
        clock = Clock()
        traced = _traced([item for item, _ in completed])
        for item, outcome in completed:
            if (parent := traced.pop(item.job.id, "")) == "":
                continue
            attributes: Attributes = {
                **self._same,
                "jitney.job.id": item.job.id,
                "jitney.job.attempt": item.job.attempt,
                "jitney.job.state": outcome.state.value,
            }
            claimed = clock.ns(item.claimed_at)
            queued_ns = max(0, item.job.claimed_us - item.job.created_us) * 1000  # by the server's clock
            decoded = claimed + int(outcome.decode_ms * 1e6)
            self._tracer.record("queue", parent, (claimed - queued_ns, claimed), attributes)
            self._tracer.record("preprocess", parent, (claimed, decoded), attributes)
            self._tracer.record("write back", parent, (clock.ns(write_began), clock.now_ns), attributes)


def _traced(items: Sequence[WorkItem]) -> dict[str, str]:
    """Return the traceparents of the jobs that have one, by id."""
    return {
        item.job.id: context.traceparent
        for item in items
        if (context := item.job.request_context) and context.traceparent
    }
