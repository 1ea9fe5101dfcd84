"""Preprocesses items: turns input bytes into arrays, under the in-flight journal. An error concerns one item only."""

import time
from dataclasses import replace
from typing import Any, Final

import orjson

from jobs.contract.errors import Refused
from jobs.contract.job import ClaimedJob
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import InFlightJournal
from worker.execution import outcomes
from worker.execution.pending_items import CompletedItem, WorkItem
from worker.execution.row_joiner import RowJoiner

# Several items per thread: a thread switch costs as much as decoding a small image.
ITEMS_PER_DECODE: Final = 4


def item_of(model: Model, job: ClaimedJob, claimed_at: float, expires_at: float) -> WorkItem:
    """Return the item of a claimed job, which has all its rows. Times in seconds, on the monotonic clock."""
    if not job.rows:
        return WorkItem(job, {}, claimed_at, expires_at)
    joiner = RowJoiner(job.rows, model.spec.max_output_bytes)
    return WorkItem(job, {}, claimed_at, expires_at, row=0, joiner=joiner, size=job.rows)


def preprocess_items(model: Model, journal: InFlightJournal, items: list[WorkItem]) -> list[CompletedItem | None]:
    """Preprocess the items of jobs one after the other; returns for each its failed outcome, or None if it is ready.

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
        failed = item if item.joiner is None or error is None else replace(item, row=None)  # all rows of the job
        ends.append(None if error is None else outcomes.outcome_of_error(model, failed, error, "preprocess"))
        ended = time.monotonic()
        item.decode_ms, started = (ended - started) * 1000, ended
        if item.joiner is not None:
            item.joiner.decode_ms = item.decode_ms
    journal.clear()
    return ends


def _preprocess_item(model: Model, item: WorkItem) -> Exception | None:
    """Turn an item's input bytes into arrays; returns an error instead of raising it."""
    job = item.job
    try:
        item.parameters = parameters = read_parameters(job)
        if item.joiner is not None:
            _preprocess_rows(model, item)
            return None
        item.arrays = model.preprocess(job.kind, read_input(job), parameters)
        item.group, item.cost = model.group_of(item.arrays)
    except Exception as error:  # noqa: BLE001 (a custom task may raise anything)
        return error
    except BaseException as error:  # noqa: BLE001 (SystemExit or a cancellation has no meaning in a thread)
        return RuntimeError(f"it raised {type(error).__name__}: {error}")
    return None


def _preprocess_rows(model: Model, item: WorkItem) -> None:
    """Turn the input of a job of several rows into stacked arrays, or if its rows may differ, into single items."""
    job, data = item.job, read_input(item.job)
    if model.runs_stacked_rows:
        item.arrays, item.is_stacked = model.preprocess_stacked(job.kind, data, item.parameters, job.rows), True
        if model.row_group is not None and model.padding is None:
            item.group = model.row_group
        else:
            item.group, item.cost = model.group_of({name: array[0, ...] for name, array in item.arrays.items()})
        return
    prepared = model.preprocess_rows(job.kind, data, item.parameters, job.rows)
    singles: list[WorkItem] = []
    for row, (arrays, parameters) in zip(range(job.rows), prepared, strict=True):
        group, cost = model.group_of(arrays)
        one = WorkItem(job, parameters, item.claimed_at, item.expires_at, 0.0, arrays, group, cost, row, item.joiner)
        singles.append(one)
    item.singles = singles


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
