"""What becomes of a rider: which error ends its job, which is worth another try, which is kept as a dead letter."""

import logging
import random
from typing import TYPE_CHECKING

from batching.collation import CollationError
from jobs.contract.errors import DEAD_LETTER_CODES, JitneyError, Refused
from jobs.contract.lifecycle import State
from jobs.store import codec
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.tasks.task import RetryableError
from worker.execution.pending_items import CompletedItem, WorkItem

if TYPE_CHECKING:
    from model_runtime.model import Model

log = logging.getLogger("jitney.worker")


def fail_item(item: WorkItem, error: JitneyError, batch_size: int = 0) -> CompletedItem:
    """End a rider's job with this error."""
    dead = error.code in DEAD_LETTER_CODES
    return CompletedItem(item, item.outcome(State.FAILED, codec.error_body(error), batch_size=batch_size, dead=dead))


def expire_item(item: WorkItem) -> CompletedItem:
    """End the job of a rider whose deadline has passed."""
    error = JitneyError("deadline_exceeded", "the deadline passed before the job was done")
    return CompletedItem(item, item.outcome(State.EXPIRED, codec.error_body(error)))


def requeue_item(item: WorkItem) -> CompletedItem:
    """Give a rider's job back: it was to run, and did not."""
    return CompletedItem(item, item.outcome(State.QUEUED, b""))


def retry_item(model: "Model", item: WorkItem, error: JitneyError) -> CompletedItem:
    """Let a rider's job wait and run again; the last try ends it with this error."""
    retry = model.spec.retry
    if item.job.retries + 1 >= retry.attempts:
        return fail_item(item, error, batch_size=1)
    pause_ms = retry.backoff_ms * 2**item.job.retries * random.uniform(0.8, 1.2)  # noqa: S311 (jitter)
    log.warning("job %s of model %s is tried again in %.0f ms: %s", item.job.id, model.name, pause_ms, error)
    return CompletedItem(item, item.outcome(State.QUEUED, b"", after_ms=int(pause_ms)))


def outcome_of_error(model: "Model", item: WorkItem, error: BaseException, doing: str) -> CompletedItem:
    """Judge an error that one rider met, alone; `doing`: what the worker did with it, "prepare", "run" or "show".

    An error of a user's own code may have a text that is code too: to be called where that may run.
    """
    try:
        return _classify_error(model, item, error, doing)
    except BaseException as another:
        log.exception(
            "model %s: an error of job %s cannot be told: %s", model.name, item.job.id, type(another).__name__
        )
        reason = f"model {model.name} could not {doing} it: {type(error).__name__}"
        return fail_item(item, Refused("inference_failed" if doing != "prepare" else "invalid_input", reason))


def _classify_error(model: "Model", item: WorkItem, error: BaseException, doing: str) -> CompletedItem:
    if isinstance(error, JitneyError):
        return fail_item(item, error)
    if isinstance(error, RetryableError):
        reason = f"model {model.name} could not {doing} it, after {item.job.retries + 1} tries: {error}"
        return retry_item(model, item, Refused("too_many_attempts", reason))
    if isinstance(error, MemoryError) or (isinstance(error, RunFailed) and error.fault == "memory"):
        log.warning("job %s: no memory for it alone in model %s: %s", item.job.id, model.name, error)
        reason = f"model {model.name} has not enough memory for this input, even alone"
        return retry_item(model, item, Refused("resource_exhausted", reason))
    if doing == "run":
        log.warning("job %s failed in model %s: %s", item.job.id, model.name, error)
        reason = str(error) if isinstance(error, CollationError) else "the runtime refused this input"
        return fail_item(item, Refused("inference_failed", f"model {model.name} could not run this input: {reason}"), 1)
    log.error("model %s could not %s job %s", model.name, doing, item.job.id, exc_info=error)
    if doing == "show":
        return fail_item(item, Refused("inference_failed", f"model {model.name}: its output can not be shown"))
    return fail_item(item, Refused("invalid_input", f"model {model.name} could not prepare this input"))
