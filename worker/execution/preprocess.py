"""Turns riders' bytes into arrays, in whatever thread; what goes wrong with one belongs to it alone. Knows no queue."""

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

# A few to a thread: a hop between threads costs as much as decoding a small image.
ITEMS_PER_DECODE: Final = 4


def preprocess_items(model: Model, journal: InFlightJournal, items: list[WorkItem]) -> list[CompletedItem | None]:
    """Prepare riders one after the other, in whatever thread; an end is one rider's alone, None: it may be seated.

    Errors are judged here and not on the event loop: their texts may be made by a user's code.
    """
    ends: list[CompletedItem | None] = []
    if not model.is_journaled_singly:  # it only maps bytes: noting each rider would cost as much
        journal.record([item.job.claim for item in items])
    for item in items:
        if model.is_journaled_singly:
            journal.record([item.job.claim])
        error = preprocess_item(model, item)
        ends.append(None if error is None else outcomes.outcome_of_error(model, item, error, "prepare"))
    journal.clear()
    return ends


def preprocess_item(model: Model, item: WorkItem) -> Exception | None:
    """Turn a rider's bytes into arrays."""
    started = time.monotonic()
    try:
        item.parameters = read_parameters(item.job)
        item.arrays = model.preprocess(item.job.kind, item.job.input, item.parameters)
        item.group = group_of(item.arrays)
    except Exception as error:  # noqa: BLE001 (a task of the user's own may do anything)
        return error
    except BaseException as error:  # noqa: BLE001 - a thread is no place to exit from, or to be cancelled in
        return RuntimeError(f"it raised {type(error).__name__}: {error}")
    finally:
        item.decode_ms = (time.monotonic() - started) * 1000
    return None


def read_parameters(job: ClaimedJob) -> dict[str, Any]:
    """Read a job's parameters."""
    if job.parameters == b"{}":
        return {}
    parameters = orjson.loads(job.parameters)
    if not isinstance(parameters, dict):
        raise Refused("invalid_request", "parameters must be an object")
    return parameters
