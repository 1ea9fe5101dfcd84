"""Turns riders' bytes into arrays, in whatever thread; what goes wrong with one belongs to it alone. Knows no queue."""

import time
from typing import Any, Final

import orjson

from batching.collation import group_of
from jobs.contract.errors import Refused
from jobs.contract.job import Claimed
from model_runtime.model import Model
from worker.crash_recovery.in_flight_journal import BlackBox
from worker.execution import outcomes
from worker.execution.pending_items import Ended, Rider

# A few to a thread: a hop between threads costs as much as decoding a small image.
DECODED_TOGETHER: Final = 4


def prepare_all(model: Model, box: BlackBox, riders: list[Rider]) -> list[Ended | None]:
    """Prepare riders one after the other, in whatever thread; an end is one rider's alone, None: it may be seated.

    Errors are judged here and not on the event loop: their texts may be made by a user's code.
    """
    ends: list[Ended | None] = []
    if not model.is_noted_each:  # it only maps bytes: noting each rider would cost as much
        box.hold([rider.job.claim for rider in riders])
    for rider in riders:
        if model.is_noted_each:
            box.hold([rider.job.claim])
        error = prepare(model, rider)
        ends.append(None if error is None else outcomes.of_error(model, rider, error, "prepare"))
    box.let_go()
    return ends


def prepare(model: Model, rider: Rider) -> Exception | None:
    """Turn a rider's bytes into arrays."""
    started = time.monotonic()
    try:
        rider.parameters = parameters_of(rider.job)
        rider.arrays = model.prepare(rider.job.kind, rider.job.input, rider.parameters)
        rider.group = group_of(rider.arrays)
    except Exception as error:  # noqa: BLE001 (a task of the user's own may do anything)
        return error
    except BaseException as error:  # noqa: BLE001 - a thread is no place to exit from, or to be cancelled in
        return RuntimeError(f"it raised {type(error).__name__}: {error}")
    finally:
        rider.decode_ms = (time.monotonic() - started) * 1000
    return None


def parameters_of(job: Claimed) -> dict[str, Any]:
    """Read a job's parameters."""
    if job.parameters == b"{}":
        return {}
    parameters = orjson.loads(job.parameters)
    if not isinstance(parameters, dict):
        raise Refused("invalid_request", "parameters must be an object")
    return parameters
