"""Decide how a model's items of different lengths are padded: only if padding changes no answer.

Also makes the row that run times are measured with.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from batching.collation import CollationError, group_of, split_outputs, stack_items
from batching.padding import Padding
from model_runtime.engine.onnx_engine import OnnxEngine, RunFailed
from model_runtime.engine.open_engine import AnyEngine
from model_runtime.profiling.batch_consistency import relative_difference, tolerance_of
from model_runtime.profiling.synthetic_inputs import Row, RowGenerator
from model_runtime.repository.repository import ModelFolder
from model_runtime.spec.model_toml import SPEC_FILE, ModelError
from model_runtime.tasks.examples import EXAMPLES_FOLDER, read_own_rows
from model_runtime.tasks.task import Task
from model_runtime.tasks.text.text_task import TextTask
from model_runtime.tensor_spec import TensorSpec

log = logging.getLogger("jitney.worker")

GPU_MULTIPLE: Final = 8
MAX_EXAMPLES: Final = 8
CHECKED_LENGTHS: Final = (5, 23, 9)
MEASURED_LENGTH: Final = 16  # of the rows that run times are measured with
_SEED: Final = 7


def decide_padding(
    folder: ModelFolder, engine: AnyEngine, task: Task, *, checks_trusted: bool = False
) -> Padding | None:
    """Return how the items of a model are padded; None if they have no lengths.

    Padding is not used if the model is not batched, if model.toml says so, or if it would change answers. Raises
    ModelError if model.toml asks for padding that changes answers. `checks_trusted`: check it although model.toml has
    batching = "trust".
    """
    spec, file = folder.spec, folder.path / SPEC_FILE
    written = engine.declared_padding if isinstance(engine, OnnxEngine) else None
    if task.padding is not None and written is not None:
        raise ModelError(file, "inputs", f"the task {spec.task} pads its inputs itself: remove pad_axis and fill")
    padding = task.padding or written
    if padding is None:
        keys = {"padding.enabled": spec.padding.enabled, "padding.multiple": spec.padding.multiple}
        for key, value in (keys | {"max_batch_cost": spec.max_batch_cost}).items():
            if value is not None and value is not False:
                reason = "the items of this model do not differ in length"
                raise ModelError(file, key, f"{reason}: set pad_axis under [inputs.NAME], or remove this key")
        return None
    is_used = padding.is_used and spec.padding.enabled is not False and engine.batchable
    multiple = spec.padding.multiple or (1 if engine.provider == "cpu" else GPU_MULTIPLE)
    padding = replace(padding, multiple=multiple, is_used=is_used)
    if not is_used or (spec.batching == "trust" and not checks_trusted):
        return padding
    compared = [task.output.name] if isinstance(task, TextTask) else [each.name for each in engine.outputs]
    reason = _find_difference(folder, engine, task, padding, compared)
    if not reason:
        return padding
    if task.padding is None or spec.padding.enabled:
        allowed = "[padding] enabled = false, which runs together only items of one length"
        raise ModelError(file, "padding", f"{reason}; allowed: {allowed}")
    engine.batch_note = "; ".join(filter(None, [engine.batch_note, f"items are not padded: {reason}"]))
    log.warning("model %s: items are not padded: %s", folder.name, reason)
    return replace(padding, is_used=False)


def make_timing_row(folder: ModelFolder, engine: AnyEngine, task: Task, padding: Padding) -> Row | None:
    """Return a row of MEASURED_LENGTH to time runs with; None if none runs. Raises ModelError if the device is lost."""
    try:
        return _made_rows(engine, task, padding, [MEASURED_LENGTH])[0]
    except RunFailed as error:
        if error.fault == "device":
            raise ModelError(folder.onnx, None, f"the device was lost while a row was tried: {error}") from error
        return None


def _find_difference(
    folder: ModelFolder, engine: AnyEngine, task: Task, padding: Padding, compared: Sequence[str]
) -> str:
    """Return why padding is refused, "" if the answers of rows are the same padded and not padded."""
    tolerance = folder.spec.max_drift or tolerance_of([*engine.inputs, *engine.outputs], engine.provider)
    try:
        rows = _own_rows(folder, engine, task, padding)
        if not rows:
            rows = _made_rows(engine, task, padding, _checked_lengths(padding.longest))
        alone = [split_outputs(engine.run(stack_items([row])), 1)[0] for row in rows]
        together = split_outputs(engine.run(stack_items(rows, 0, padding)), len(rows))
    except CollationError as error:
        return f"rows of different lengths do not run together: {error}"
    except RunFailed as error:
        if error.fault == "device":
            raise ModelError(folder.onnx, None, f"the device was lost while padding was checked: {error}") from error
        return f"it could not be checked, as rows of different lengths do not run: {error}"
    difference = max(
        relative_difference({name: expected[name] for name in compared}, padding.cut(outputs, padding.length_of(row)))
        for row, expected, outputs in zip(rows, alone, together, strict=True)
    )
    return "" if difference <= tolerance else f"padding changes an answer by {difference:.3g} times its largest number"


def _own_rows(folder: ModelFolder, engine: AnyEngine, task: Task, padding: Padding) -> list[Row]:
    """Return some of the model's own examples that differ in length and can run together; empty if there are none."""
    rows = read_own_rows(folder.path, task, engine.inputs)
    alike = [row for row in rows if group_of(row, padding) == group_of(rows[0], padding)]
    try:
        by_length = {padding.length_of(row): row for row in alike}
    except ValueError as error:
        raise ModelError(folder.path / EXAMPLES_FOLDER, None, f"an example does not fit the model: {error}") from error
    return list(by_length.values())[:MAX_EXAMPLES] if len(by_length) > 1 else []


def _checked_lengths(longest: int) -> Sequence[int]:
    """Return different lengths to check, up to the longest that an item may have (0: any)."""
    if longest == 0 or longest >= max(CHECKED_LENGTHS):
        return CHECKED_LENGTHS
    return max(1, longest // 3), longest, max(1, longest // 2)


def _made_rows(engine: AnyEngine, task: Task, padding: Padding, lengths: Sequence[int]) -> list[Row]:
    """Return a row of each of these lengths, or of the most that a row may have. Raises RunFailed if none runs."""
    lengths = [min(length, padding.longest or length) for length in lengths]
    if made := [*task.make_rows_of(lengths)]:
        return made

    def run_one(row: Row) -> object:
        return engine.run(stack_items([row]))

    side = RowGenerator(engine.inputs, run_one, find_indices=False).side
    rows: list[Row] = []
    for at, length in enumerate(lengths):
        specs = [_with_length(spec, padding, length, side) for spec in engine.inputs]
        rows += RowGenerator(specs, run_one, find_indices=False).rows(1, _SEED + at)
    return rows


def _with_length(spec: TensorSpec, padding: Padding, length: int, side: int) -> TensorSpec:
    """Return the spec with this length, and `side` for other free dimensions."""
    axis = padding.inputs[spec.name].axis if spec.name in padding.inputs else None
    sides = (length if at == axis else declared for at, declared in enumerate(spec.shape))
    return spec._replace(shape=tuple(side if each == -1 else each for each in sides))
