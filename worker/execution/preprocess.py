"""Preprocesses items: turns input bytes into arrays, under the in-flight journal. An error concerns one item only."""

import time
from typing import Any, Final

import orjson

from batching.collation import group_of
from jobs.contract.errors import Refused
from jobs.contract.job import ClaimedJob
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution import outcomes
from worker.execution.pending_items import CompletedItem, WorkItem

# Several items per thread: a thread switch costs as much as decoding a small image.
ITEMS_PER_DECODE: Final = 4


def preprocess_items(model: Model, journal: InFlightJournal, items: list[WorkItem]) -> list[CompletedItem | None]:
    """Preprocess items one after the other; returns for each its failed outcome, or None if it is ready.

    Errors are classified here and not on the event loop, because custom code may compute their texts.
    """
    ends: list[CompletedItem | None] = []
    is_journaled_singly = model.is_journaled_singly
    if not is_journaled_singly:  # preprocessing only maps bytes: a record per item would cost as much
        journal.record([item.job.claim for item in items])
    started = time.monotonic()
    for item in items:
        if is_journaled_singly:
            journal.record([item.job.claim])
        error = _preprocess_item(model, item)
        ends.append(None if error is None else outcomes.outcome_of_error(model, item, error, "preprocess"))
        ended = time.monotonic()
        item.decode_ms, started = (ended - started) * 1000, ended
    journal.clear()
    return ends


def _preprocess_item(model: Model, item: WorkItem) -> Exception | None:
    """Turn an item's input bytes into arrays; returns an error instead of raising it."""
    job = item.job
    try:
        item.parameters = parameters = read_parameters(job)
        item.arrays = model.preprocess(job.kind, read_input(job), parameters)
        item.group = model.row_group or group_of(item.arrays)
    except Exception as error:  # noqa: BLE001 (a custom task may raise anything)
        return error
    except BaseException as error:  # noqa: BLE001 (SystemExit or a cancellation has no meaning in a thread)
        return RuntimeError(f"it raised {type(error).__name__}: {error}")
    return None


def read_input(job: ClaimedJob) -> bytes:
    """Return a job's input; raises Refused if it was lost."""
    if job.input is None:
        raise Refused("unreadable_job", "the input of this job was lost in the queue")
    return job.input


def read_parameters(job: ClaimedJob) -> dict[str, Any]:
    """Return a job's parameters; raises Refused if they are not an object."""
    if job.parameters == b"{}":
        return {}
    parameters = orjson.loads(job.parameters)
    if not isinstance(parameters, dict):
        raise Refused("invalid_request", "parameters must be an object")
    return parameters
