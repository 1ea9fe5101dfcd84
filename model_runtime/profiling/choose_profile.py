"""Choose the profile of a model that is being loaded: stored by `jitney models profile`, given, or measured."""

import logging
import time
from collections.abc import Mapping, Sequence

from batching.padding import Padding
from model_runtime.engine.onnx_engine import RunFailed
from model_runtime.engine.open_engine import AnyEngine
from model_runtime.profiling import profile_store
from model_runtime.profiling.batch_cap import (
    MAX_MEASURED_BATCH,
    MAX_TINY_BATCH,
    LengthCosts,
    MeasuredModel,
    Profile,
    length_costs,
    measure_profile,
)
from model_runtime.profiling.measuring_lock import measuring_alone
from model_runtime.profiling.padding_check import make_timing_row
from model_runtime.profiling.profile_store import StoredProfile
from model_runtime.repository.repository import ModelFolder
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks import Task
from model_runtime.tensor_spec import Array

log = logging.getLogger("jitney.worker")


def choose_profile(
    folder: ModelFolder, engine: AnyEngine, task: Task, padding: Padding | None
) -> tuple[Profile, LengthCosts | None]:
    """Return the profile of a model and, if its items differ in length, its costs. Raises ModelError."""
    stored = _read_profiles(folder)
    matching = profile_store.find_profile(stored, engine.provider, engine.device, engine.runtime)
    costs: LengthCosts | None = None
    if padding is None or not engine.batchable:
        profile = _choose_cap(folder, engine, matching)
    else:
        profile, costs = _measure_lengths(folder, engine, task, padding, matching)
    return profile._replace(stored=stored), costs


def _choose_cap(folder: ModelFolder, engine: AnyEngine, stored: StoredProfile | None) -> Profile:
    if not engine.batchable:
        return Profile(1, {})
    if stored is not None:
        run_ms = {size: latency.p50_ms for size, latency in stored.sizes.items()}
        return Profile(folder.spec.max_batch or stored.cap, run_ms)
    if folder.spec.max_batch is not None:
        return Profile(folder.spec.max_batch, {})
    return _measure(folder, engine, largest_tiny=MAX_TINY_BATCH if engine.provider == "cpu" else MAX_MEASURED_BATCH)


def _measure_lengths(
    folder: ModelFolder, engine: AnyEngine, task: Task, padding: Padding, stored: StoredProfile | None
) -> tuple[Profile, LengthCosts]:
    """Return the profile of a model whose items differ in length, and its costs, which are always measured."""
    row = make_timing_row(folder, engine, task, padding)
    measured = _measure(folder, engine, [row] if row else ())
    costs = length_costs(measured, padding.length_of(row)) if row else LengthCosts()
    if stored is not None or folder.spec.max_batch is not None:
        return _choose_cap(folder, engine, stored), costs
    return measured if costs.max_cost is None else measured._replace(cap=MAX_MEASURED_BATCH), costs


def _measure(
    folder: ModelFolder,
    engine: AnyEngine,
    examples: Sequence[Mapping[str, Array]] = (),
    largest_tiny: int = MAX_MEASURED_BATCH,
) -> Profile:
    spent = time.process_time if engine.provider == "cpu" else None
    with measuring_alone():
        measured = MeasuredModel(engine.inputs, engine.run, spent=spent, examples=examples)
        profile = measure_profile(measured, largest_tiny=largest_tiny)
    if isinstance(profile.error, RunFailed) and profile.error.fault == "device":  # else the first jobs would fail
        raise ModelError(folder.onnx, None, f"the device was lost while batch sizes were measured: {profile.error}")
    if profile.error is not None:
        message = "model %s: measuring larger batches failed: %s; batches have at most %d rows"
        log.warning(message, folder.name, profile.error, profile.cap)
    return profile


def _read_profiles(folder: ModelFolder) -> list[StoredProfile]:
    if folder.spec.engine is not None:  # profiles belong to ONNX files
        return []
    try:
        return profile_store.read_profiles(folder.onnx)
    except ModelError as error:
        log.warning("model %s: ignoring the stored profile, measuring again: %s", folder.name, error)
        return []
