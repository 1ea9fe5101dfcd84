"""Load a custom engine: a class, named by `engine` in `model.toml`, that runs a model instead of ONNX Runtime.

`engine = "file.py:Class"` names a file in the model's folder, `engine = "module:Class"` an installed module. The code
runs with the worker's rights, so only trusted users may write into the models directory. It cannot be uploaded by HTTP.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from model_runtime.engine.onnx_runtime import RunFailed, Stop, classify_error
from model_runtime.repository.module_loading import load_module
from model_runtime.repository.path_checks import check_file
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

_MEMBERS = ("inputs", "outputs", "provider", "device", "runtime", "batchable", "run")


@runtime_checkable
class CustomEngine(Protocol):
    """Protocol of a custom engine. Created as `Class(version_folder, spec, gpu)`; `gpu` is the number of the GPU.

    `inputs`, `outputs`  tensor specs of one row: name, datatype such as "FP32", shape without the batch dimension
    `provider`           such as "cpu"; with "cuda" or "tensorrt" batches are padded to buckets
    `device`             stable name of the device; a part of the key of profiles
    `runtime`            version of the runtime; likewise
    `batchable`          True: `run` accepts any number of rows; False: one
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    provider: str
    device: str
    runtime: str
    batchable: bool

    def run(self, arrays: Mapping[str, Array], stop: Stop | None) -> Mapping[str, Array]:
        """Run a batch of rows and return rows. Blocks; called from several threads.

        Return early if `stop.is_set`. After an exception the worker bisects the batch to isolate the failing row.
        Raise `RunFailed(reason, fault)` with fault "memory" if fewer rows may succeed, "device" if nothing can run in
        this process any more, "stopped" after a stop.
        """


class CustomEngineAdapter:
    """Adapts a custom engine to the worker, and checks everything that it returns."""

    def __init__(self, folder: Path, version: Path, spec: ModelSpec, gpu: int) -> None:
        """Load and create the engine. Raises ModelError, also for any exception of user code."""
        self._file = folder / SPEC_FILE
        self._class_path = spec.engine or ""
        self._engine = engine = self._create(folder, version, spec, gpu)
        self.inputs, self.outputs = list(engine.inputs), list(engine.outputs)
        self.provider, self.device, self.runtime = engine.provider, engine.device, engine.runtime
        self.batchable = bool(engine.batchable)
        self.batch_note = "" if self.batchable else "its engine is not batchable"
        self.checked: bool | None = None
        self.drift: float | None = None
        self.gpu: int | None = None
        self.unbatched: list[str] = []  # each tensor has the rows first
        self.placement: dict[str, int] = {}
        self.provider_note = f"custom engine {self._class_path}"
        self._types = {tensor_spec.name: DTYPES[tensor_spec.datatype] for tensor_spec in self.outputs}

    def disable_batching(self, why: str) -> None:
        """Run one row at a time from now on."""
        self.batchable, self.batch_note = False, why

    def run(self, arrays: Mapping[str, Array], stop: Stop | None = None) -> dict[str, Array]:
        """Run a batch of rows. Blocks. Raises RunFailed."""
        try:
            results = self._engine.run(arrays, stop)
            return {name: self._check_output(name, results[name], arrays) for name in self._types}
        except RunFailed:
            raise
        except BaseException as error:  # user code may raise anything
            fault = classify_error(error) if isinstance(error, Exception) else "input"
            raise RunFailed(f"{self._class_path}: {type(error).__name__}: {error}", fault) from error

    def warm_up(self, arrays: Mapping[str, Array]) -> None:
        """Run a batch to prepare its size. Raises RunFailed."""
        self.run(arrays)

    def _check_output(self, name: str, value: Any, arrays: Mapping[str, Array]) -> Array:
        tensor_spec = next(output for output in self.outputs if output.name == name)
        rows = len(next(iter(arrays.values())))
        if value.dtype != self._types[name] or len(value) != rows or not tensor_spec.fits(value.shape[1:]):
            allowed = f"{tensor_spec.datatype} {[rows, *tensor_spec.shape]}"
            raise ValueError(f"output {name!r} is a {value.dtype} {list(value.shape)}; allowed: {allowed}")
        return value  # type: ignore[no-any-return]

    def _create(self, folder: Path, version: Path, spec: ModelSpec, gpu: int) -> CustomEngine:
        try:
            engine = self._load_class(folder)(version, spec, gpu)
        except ModelError:
            raise
        except BaseException as error:  # user code must not stop other models
            raise self._error(f"{type(error).__name__}: {error}") from error
        if missing := [name for name in _MEMBERS if not hasattr(engine, name)]:
            raise self._error(f"it has no {', '.join(missing)}; allowed: all members of jitney.CustomEngine")
        for name in ("provider", "device", "runtime"):
            if not isinstance(getattr(engine, name), str):
                raise self._error(f"{name} = {getattr(engine, name)!r}; allowed: a string")
        for name in ("inputs", "outputs"):
            tensor_specs = getattr(engine, name)
            if not tensor_specs or not all(
                isinstance(each, TensorSpec) and each.datatype in DTYPES for each in tensor_specs
            ):
                allowed = f"jitney.TensorSpec, of the datatypes {', '.join(DTYPES)}"
                raise self._error(f"{name} = {tensor_specs!r}; allowed: one or more of {allowed}")
        if not isinstance(engine, CustomEngine):
            raise self._error("it is not a jitney.CustomEngine")
        return engine

    def _load_class(self, folder: Path) -> Any:
        module_path, _, name = self._class_path.partition(":")
        if module_path.endswith(".py"):
            check_file(folder, folder / module_path, "engine", self._file)
            module = load_module(folder / module_path)
        else:
            module = import_module(module_path)
        engine_class = getattr(module, name, None)
        if not isinstance(engine_class, type):
            raise self._error(f"there is no class {name} in {module_path}")
        return engine_class

    def _error(self, reason: str) -> ModelError:
        return ModelError(self._file, "engine", f'"{self._class_path}" cannot be used: {reason}')
