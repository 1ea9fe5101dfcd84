"""Builds the outcomes of items that did not succeed: failed, expired, requeued, retried, or dead letter."""

import logging
import random
from typing import TYPE_CHECKING, Any

from batching.collation import CollationError
from jobs.config.logs import fields
from jobs.contract.errors import DEAD_LETTER_CODES, JitneyError, Refused
from jobs.contract.job import ClaimedJob
from jobs.contract.lifecycle import State
from jobs.store import codec
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.tasks.task import RetryableError
from worker.execution.pending_items import CompletedItem, WorkItem

if TYPE_CHECKING:
    from model_runtime.model import Model

log = logging.getLogger("jitney.worker")


def about(job: ClaimedJob) -> dict[str, Any]:
    """Return the argument `extra` of a log line about a job: the id of its request, if the caller gave one."""
    return fields({"request_id": (job.request_context and job.request_context.request_id) or None})


def fail_item(item: WorkItem, error: JitneyError, batch_size: int = 0) -> CompletedItem:
    """Fail the item's job with this error."""
    dead = error.code in DEAD_LETTER_CODES
    if item.row is not None:
        error.details["row"] = item.row
    return CompletedItem(item, item.outcome(State.FAILED, codec.error_body(error), batch_size=batch_size, dead=dead))


def expire_item(item: WorkItem) -> CompletedItem:
    """Expire the item's job: its deadline has passed."""
    error = JitneyError("deadline_exceeded", "the deadline passed before the job was done")
    return CompletedItem(item, item.outcome(State.EXPIRED, codec.error_body(error)))


def requeue_item(item: WorkItem) -> CompletedItem:
    """Return the item's job to the queue: its run was stopped."""
    return CompletedItem(item, item.outcome(State.QUEUED, b""))


def retry_item(model: "Model", item: WorkItem, error: JitneyError) -> CompletedItem:
    """Queue the item's job for a retry after a backoff; the last attempt fails it with this error."""
    retry = model.spec.retry
    if item.job.retries + 1 >= retry.attempts:
        return fail_item(item, error, batch_size=1)
    backoff_ms = retry.backoff_ms * 2**item.job.retries * random.uniform(0.8, 1.2)  # noqa: S311 (jitter)
    message = "job %s of model %s will be retried in %.0f ms: %s"
    log.warning(message, item.job.id, model.name, backoff_ms, error, extra=about(item.job))
    return CompletedItem(item, item.outcome(State.QUEUED, b"", after_ms=int(backoff_ms)))


def outcome_of_error(model: "Model", item: WorkItem, error: BaseException, action: str) -> CompletedItem:
    """Classify the error of one item. `action`: what the worker did with it, "preprocess", "run" or "postprocess".

    The text of a custom task's error may be computed by custom code: call this where such code may run.
    """
    try:
        return _classify_error(model, item, error, action)
    except BaseException as text_error:
        log.exception(
            "model %s: cannot format the error of job %s: %s",
            model.name,
            item.job.id,
            type(text_error).__name__,
            extra=about(item.job),
        )
        reason = f"model {model.name} could not {action} it: {type(error).__name__}"
        return fail_item(item, Refused("inference_failed" if action != "preprocess" else "invalid_input", reason))


def _classify_error(model: "Model", item: WorkItem, error: BaseException, action: str) -> CompletedItem:
    if isinstance(error, JitneyError):
        return fail_item(item, error)
    if isinstance(error, RetryableError):
        reason = f"model {model.name} could not {action} it, after {item.job.retries + 1} attempts: {error}"
        return retry_item(model, item, Refused("too_many_attempts", reason))
    if isinstance(error, MemoryError) or (isinstance(error, RunFailed) and error.fault == "memory"):
        message = "job %s: model %s is out of memory for this input alone: %s"
        log.warning(message, item.job.id, model.name, error, extra=about(item.job))
        reason = f"model {model.name} does not have enough memory for this input, even in a batch of one"
        return retry_item(model, item, Refused("resource_exhausted", reason))
    if action == "run":
        log.warning("job %s failed in model %s: %s", item.job.id, model.name, error, extra=about(item.job))
        reason = str(error) if isinstance(error, CollationError) else "the runtime refused this input"
        return fail_item(item, Refused("inference_failed", f"model {model.name} could not run this input: {reason}"), 1)
    message = "model %s could not %s job %s"
    log.error(message, model.name, action, item.job.id, exc_info=error, extra=about(item.job))
    if action == "postprocess":
        return fail_item(item, Refused("inference_failed", f"model {model.name}: cannot postprocess its output"))
    return fail_item(item, Refused("invalid_input", f"model {model.name} could not preprocess this input"))
