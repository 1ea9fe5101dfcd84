"""Preprocesses items: turns input bytes into arrays, under the in-flight journal. An error concerns one item only."""

import time
from collections.abc import Iterable, Iterator
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


def split_rows(model: Model, items: Iterable[WorkItem]) -> Iterator[WorkItem]:
    """Yield the items of claimed jobs: in place of a job that has rows, one item for each row."""
    for item in items:
        if not item.job.rows:
            yield item
            continue
        job, claimed_at, expires_at = item.job, item.claimed_at, item.expires_at
        joiner = RowJoiner(job.rows, model.spec.max_output_bytes)
        for row in range(job.rows):  # `replace` takes three times as long
            yield WorkItem(job, {}, claimed_at, expires_at, row=row, joiner=joiner)


def preprocess_items(model: Model, journal: InFlightJournal, items: list[WorkItem]) -> list[CompletedItem | None]:
    """Preprocess items one after the other; returns for each its failed outcome, or None if it is ready.

    The first row of a job preprocesses the whole input. If it fails, it alone gets an outcome.

    Errors are classified here and not on the event loop, because custom code may compute their texts.
    """
    ends: list[CompletedItem | None] = []
    is_journaled_singly = model.is_journaled_singly
    if not is_journaled_singly:  # preprocessing only maps bytes: a record per item would cost as much
        journal.record([item.job.claim for item in items])
    started = time.monotonic()
    for item in items:
        if is_journaled_singly and (item.joiner is None or item.joiner.inputs is None):
            journal.record([item.job.claim])
        error = _preprocess_item(model, item) if item.joiner is None else _preprocess_row(model, item, item.joiner)
        failed = item if item.joiner is None or error is None else replace(item, row=None)  # all rows of the job
        ends.append(None if error is None else outcomes.outcome_of_error(model, failed, error, "preprocess"))
        ended = time.monotonic()
        item.decode_ms, started = (ended - started) * 1000, ended
        if item.joiner is not None:
            item.joiner.decode_ms += item.decode_ms
    journal.clear()
    return ends


def _preprocess_item(model: Model, item: WorkItem) -> Exception | None:
    """Turn an item's input bytes into arrays; returns an error instead of raising it."""
    job = item.job
    try:
        item.parameters = parameters = read_parameters(job)
        item.arrays = model.preprocess(job.kind, read_input(job), parameters)
        item.group, item.cost = model.group_of(item.arrays)
    except Exception as error:  # noqa: BLE001 (a custom task may raise anything)
        return error
    except BaseException as error:  # noqa: BLE001 (SystemExit or a cancellation has no meaning in a thread)
        return RuntimeError(f"it raised {type(error).__name__}: {error}")
    return None


def _preprocess_row(model: Model, item: WorkItem, joiner: RowJoiner) -> Exception | None:
    """Take a row's arrays from the preprocessed input; returns an error, which concerns all rows, once."""
    job = item.job
    try:
        if joiner.inputs is None:
            joiner.inputs = []
            joiner.inputs = model.preprocess_rows(job.kind, read_input(job), read_parameters(job), job.rows)
        if joiner.inputs:
            item.arrays, item.parameters = joiner.inputs[item.row or 0]
            item.group, item.cost = model.group_of(item.arrays)
    except Exception as error:  # noqa: BLE001 (as above)
        return error
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
