"""Determine whether a model accepts several rows at once: from its declared shapes, then by running zeros.

Takes the declared tensor specs, with the batch dimension, and a function that runs arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

Run = Callable[[dict[str, Array]], Mapping[str, Array]]


class OutOfMemory(Exception):
    """A single row of zeros does not fit into memory."""


class Batchability(NamedTuple):
    """`note`: why not, or what could not be tested. `unbatched_outputs`: outputs without a batch dimension."""

    batchable: bool
    note: str
    unbatched_outputs: frozenset[str]


def probe_batchability(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], run: Run) -> Batchability:
    """Run one row, then two if the declared shapes allow. `run` may raise anything. Raises OutOfMemory."""
    obstacle = _declared_obstacle(inputs, outputs)
    try:
        outputs_of_one = run(_zeros(inputs, 1))
    except Exception as error:  # the model may still serve real inputs
        if getattr(error, "fault", None) == "memory":
            raise OutOfMemory(str(error)) from error
        return _untested_batchability(inputs, outputs, obstacle, str(error))
    if not obstacle:
        obstacle = _row_mismatch(outputs_of_one, 1) or _try_two(inputs, run)
    if not obstacle:
        return Batchability(batchable=True, note="", unbatched_outputs=frozenset())
    return Batchability(batchable=False, note=obstacle, unbatched_outputs=_unbatched_outputs(outputs, outputs_of_one))


def _declared_obstacle(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    for what, tensor_specs in (("input", inputs), ("output", outputs)):
        for tensor_spec in tensor_specs:
            if not tensor_spec.shape:
                return f"{what} {tensor_spec.name!r} is a scalar, without a batch dimension"
            if tensor_spec.shape[0] != -1:
                return f"{what} {tensor_spec.name!r} has its first dimension fixed at {tensor_spec.shape[0]}"
    return ""


def _try_two(inputs: Sequence[TensorSpec], run: Run) -> str:
    try:
        return _row_mismatch(run(_zeros(inputs, 2)), 2)
    except Exception as error:  # noqa: BLE001 - one row ran, so two rows are the cause
        return f"it runs one row, but not two: {error}"


def _row_mismatch(results: Mapping[str, Array], rows: int) -> str:
    for name, value in results.items():
        if value.shape[:1] != (rows,):
            return f"{rows} rows in, but output {name!r} has the shape {list(value.shape)}"
    return ""


def _untested_batchability(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], obstacle: str, error: str
) -> Batchability:
    """Trust the declared shapes if zeros failed with free dimensions set to 1, as that size may be the cause."""
    guessed = any(-1 in tensor_spec.shape[1:] for tensor_spec in inputs)
    note = obstacle or f"a test run with zeros{' and free dimensions of 1' if guessed else ''} failed: {error}"
    batchable = guessed and not obstacle
    return Batchability(batchable, note, frozenset() if batchable else _unbatched_outputs(outputs, {}))


def _unbatched_outputs(outputs: Sequence[TensorSpec], outputs_of_one: Mapping[str, Array]) -> frozenset[str]:
    """Return the outputs whose first dimension is not the batch, such as [boxes, 4]."""
    rows = {
        tensor_spec.name: 0
        if not tensor_spec.shape
        else tensor_spec.shape[0]
        if tensor_spec.shape[0] != -1
        else len(outputs_of_one.get(tensor_spec.name, (0,)))
        for tensor_spec in outputs
    }
    return frozenset(name for name, count in rows.items() if count != 1)


def _zeros(inputs: Sequence[TensorSpec], rows: int) -> dict[str, Array]:
    return {
        tensor_spec.name: np.zeros(
            [rows if at == 0 else abs(side) for at, side in enumerate(tensor_spec.shape)], DTYPES[tensor_spec.datatype]
        )
        for tensor_spec in inputs
    }
