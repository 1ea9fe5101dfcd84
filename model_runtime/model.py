"""A model ready to serve: its folder, its engine and its task as one thing, and the card it is announced by.

Decides nothing about batches: it says how large one may be, and runs what it is given.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from batching import buckets
from jobs.contract.errors import Refused
from jobs.contract.tensors import size_bytes
from model_runtime.engine.onnx_engine import RunFailed, Stop
from model_runtime.engine.open_engine import QUICK_CHECK_ROWS, AnyEngine, Hardware, open_engine
from model_runtime.profiling import batch_consistency, profile_store
from model_runtime.profiling.batch_cap import MeasuredModel, Profile, measure_profile, zero_batch
from model_runtime.profiling.profile_store import StoredProfile
from model_runtime.repository.repository import ModelFolder, with_version_spec
from model_runtime.spec.model_toml import ModelError
from model_runtime.tasks import Task, is_custom, load_task
from model_runtime.tensor_spec import Array

log = logging.getLogger("jitney.worker")


class Model:
    """`max_batch`: as the operator set it, or else as measured; 1 for a model that takes no more.

    `has_custom_task`, `has_custom_engine`: whether they are user code, which is never called on an event loop.
    `offload`: run preprocessing in a thread. `is_journaled_singly`: it takes long enough for each item to be written to
    the in-flight journal by itself; otherwise all that are preprocessed together are written at once.
    """

    def __init__(self, folder: ModelFolder, engine: AnyEngine, task: Task, profile: Profile, load_ms: float) -> None:
        self.name = folder.name
        self.version = folder.version
        self.spec = folder.spec
        self.max_batch = profile.cap
        self.buckets = (
            buckets.choose_buckets(engine.provider, profile.cap, folder.spec.buckets) if engine.batchable else ()
        )
        self.max_wait_s = folder.spec.max_wait_ms / 1000
        self.has_custom_task, self.has_custom_engine = is_custom(folder.spec.task), folder.spec.engine is not None
        self.offload = task.offload or self.has_custom_task
        self.is_journaled_singly = bool(task.offload)
        self.inputs = engine.inputs
        self._engine = engine
        self._task = task
        self._profile = profile
        self._load_ms = load_ms
        # Read here, in the thread that loads: in a task of a user's own they may be code.
        self._kinds = sorted(task.kinds)
        self._labels = task.label_count if isinstance(task.label_count, int) else None

    def preprocess(self, kind: str, data: bytes, parameters: dict[str, Any]) -> dict[str, Array]:
        """One rider's arrays, without the batch dimension; raises Refused, and what a user's own task may raise."""
        if kind not in self._kinds:
            kinds = " or ".join(self._kinds)
            raise Refused("invalid_input", f"model {self.name} takes {kinds} as input, not {kind}")
        return self._task.preprocess(kind, data, parameters)

    def padded_size(self, item_count: int) -> int:
        """How many rows so many riders are run with: as many, or the next bucket."""
        return buckets.padded_size(self.buckets, item_count)

    def run(self, arrays: Mapping[str, Array], stop: Stop | None = None) -> dict[str, Array]:
        """Rows in, rows out; blocks, from any thread; raises `onnx_engine.RunFailed`."""
        return self._engine.run(arrays, stop)

    def postprocess(self, outputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """One rider's outputs, without the batch dimension, as its JSON-able answer; raises as `prepare` does."""
        return self._task.postprocess(outputs, parameters)

    @property
    def running_on(self) -> str:
        """What really runs it, in a line."""
        engine = self._engine
        which = f", GPU {engine.gpu}" if engine.gpu is not None else ""
        note = f" ({engine.provider_note})" if engine.provider_note else ""
        return f"{engine.provider}, {engine.device}{which}{note}"

    def card(self) -> dict[str, Any]:
        """What the worker announces, JSON-able."""
        return {
            "name": self.name,
            "version": self.version,
            "task": self.spec.task,
            "description": self.spec.description,
            "kinds": self._kinds,
            "inputs": [tensor_spec.card() for tensor_spec in self._engine.inputs],
            "outputs": [tensor_spec.card() for tensor_spec in self._engine.outputs],
            "max_batch": self.max_batch,
            "buckets": list(self.buckets),
            "run_ms": {str(size): ms for size, ms in self._profile.run_ms.items()},
            "profiles": [one.as_json() for one in self._profile.kept],
            "batchable": self._engine.batchable,
            "checked": self._engine.checked,
            "batch_note": self._engine.batch_note,
            "provider": self._engine.provider,
            "provider_note": self._engine.provider_note,
            "placement": self._engine.placement,
            "device": self._engine.device,
            "gpu": self._engine.gpu,
            "requested_provider": self.spec.provider,
            "limits": {"max_pixels": self.spec.image.max_pixels if "image" in self._kinds else None},
            "raw_bytes": self._raw_bytes(),
            "deadline_ms": self.spec.deadline_ms,
            "load_ms": round(self._load_ms, 3),
            "labels": self._labels,
        }

    def _raw_bytes(self) -> int | None:
        """The size of an `application/octet-stream` body, where the model takes one."""
        tensor_spec = self._engine.inputs[0]
        fits = "raw" in self._kinds and len(self._engine.inputs) == 1 and tensor_spec.is_fixed
        return size_bytes(tensor_spec.datatype, tensor_spec.shape) if fits else None


def load_model(folder: ModelFolder, hardware: Hardware | None = None) -> Model:
    """Opens and tries the model, and checks its task against it; raises ModelError only."""
    started = time.perf_counter()
    folder = with_version_spec(folder)
    engine = open_engine(folder, hardware)
    task = load_task(folder.spec, folder.path, engine.inputs, engine.outputs)
    if engine.batchable and folder.spec.check:
        _check_consistency(folder, engine)
    kept = _read_profiles(folder)
    mine = profile_store.find_profile(kept, engine.provider, engine.device, engine.runtime)
    profile = _choose_profile(folder, engine, mine)._replace(kept=kept)
    _warm_up(folder, engine, profile.cap)
    return Model(folder, engine, task, profile, (time.perf_counter() - started) * 1000)


def _warm_up(folder: ModelFolder, engine: AnyEngine, cap: int) -> None:
    """Every size that will be run is run once: what the runtime prepares for it is ready before the first job."""
    if not all(tensor_spec.is_fixed for tensor_spec in engine.inputs) or not engine.batchable:
        return
    for size in buckets.choose_buckets(engine.provider, cap, folder.spec.buckets):
        try:
            engine.warm_up(zero_batch(engine.inputs, size))
        except RunFailed as error:
            if error.fault == "device":
                hint = "; [cuda] graphs = false in model.toml runs it unrecorded" if engine.provider == "cuda" else ""
                raise ModelError(
                    folder.onnx, None, f"the device was lost in a batch of {size}: {error}{hint}"
                ) from error
            log.warning("model %s: a batch of %d zeros does not run: %s", folder.name, size, error)
            return


def _check_consistency(folder: ModelFolder, engine: AnyEngine) -> None:
    """The short form of `jitney models check`: a model whose riders mix still serves, one of them at a time."""
    tolerance = batch_consistency.tolerance_of([*engine.inputs, *engine.outputs], engine.provider)
    check = batch_consistency.ConsistencyCheck(engine.inputs, engine.run, lambda rows: rows, tolerance)
    try:
        found = check.short(QUICK_CHECK_ROWS)
    except RunFailed as error:  # one made-up row is refused: that says nothing of a caller's
        if error.fault == "device":
            raise ModelError(folder.onnx, None, f"the device was lost while it was checked: {error}") from error
        log.warning("model %s is served unchecked: made-up rows do not run: %s", folder.name, error)
        return
    engine.checked = found.passed
    if not found.passed:
        engine.disable_batching(f"it fails the check: {found.reason}")
        log.warning("model %s runs one rider at a time: %s", folder.name, engine.batch_note)


def _choose_profile(folder: ModelFolder, engine: AnyEngine, kept: StoredProfile | None) -> Profile:
    if not engine.batchable:
        return Profile(1, {})
    if kept is not None:
        known = {size: latency.p50_ms for size, latency in kept.sizes.items()}
        return Profile(folder.spec.max_batch or kept.cap, known)
    if folder.spec.max_batch is not None:
        return Profile(folder.spec.max_batch, {})
    spent = time.process_time if engine.provider == "cpu" else None
    profile = measure_profile(MeasuredModel(engine.inputs, engine.run, spent=spent))
    if isinstance(profile.error, RunFailed) and profile.error.fault == "device":  # it would be blamed on the first jobs
        raise ModelError(folder.onnx, None, f"the device was lost while batches were tried: {profile.error}")
    if profile.error is not None:
        words = "model %s: trying larger batches of zeros ended with: %s; at most %d ride together"
        log.warning(words, folder.name, profile.error, profile.cap)
    return profile


def _read_profiles(folder: ModelFolder) -> list[StoredProfile]:
    if folder.spec.engine is not None:  # a profile is of an ONNX file
        return []
    try:
        return profile_store.read_profiles(folder.onnx)
    except ModelError as error:
        log.warning("model %s: its profile is measured anew: %s", folder.name, error)
        return []
