"""An engine of one's own: a class that runs a model where ONNX Runtime does not, named by `engine` in `model.toml`.

`engine = "file.py:Class"`, a file in the model's folder, or `engine = "module:Class"`, installed beside the worker. It
is code and runs as the worker: whoever may write into the folder of models may do what the worker may. It never comes
over HTTP.
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
    """What such a class has. Made as `Class(version, spec, gpu)`: the version's folder, `model.toml`, the GPU's number.

    `inputs`, `outputs`  ports of one row: name, datatype as "FP32", shape without the batch dimension, -1 where free
    `provider`           what runs it, in a word, as "cpu"; with "cuda" and "tensorrt" batches are padded to buckets
    `device`             on what, by a name that stays the same: profiles are kept by it
    `runtime`            its version, likewise
    `batchable`          whether `run` takes any number of rows; else it is given one at a time
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    provider: str
    device: str
    runtime: str
    batchable: bool

    def run(self, arrays: Mapping[str, Array], stop: Stop | None) -> Mapping[str, Array]:
        """Rows in, rows out, blocking; called from several threads.

        End early where `stop.is_set`. What it raises fails the batch, which is parted until who is at fault is alone:
        raise `RunFailed(reason, "memory")` where fewer rows may pass, "device" where nothing runs in this process any
        more, "stopped" where it was told to.
        """


class CustomEngineAdapter:
    """A class of a user's own as the worker handles it: what it gives is looked at before anybody else sees it."""

    def __init__(self, folder: Path, version: Path, spec: ModelSpec, gpu: int) -> None:
        """Opens it; raises ModelError, whatever the class does. `folder`: the model's."""
        self._file = folder / SPEC_FILE
        self._class_path = spec.engine or ""
        self._own = own = self._create(folder, version, spec, gpu)
        self.inputs, self.outputs = list(own.inputs), list(own.outputs)
        self.provider, self.device, self.runtime = own.provider, own.device, own.runtime
        self.batchable, self.batch_note = bool(own.batchable), "" if own.batchable else "its engine says so"
        self.checked: bool | None = None
        self.gpu: int | None = None
        self.placement: dict[str, int] = {}
        self.provider_note = f"{self._class_path} runs it"
        self._types = {tensor_spec.name: DTYPES[tensor_spec.datatype] for tensor_spec in self.outputs}

    def disable_batching(self, why: str) -> None:
        """Give it one row at a time from now on."""
        self.batchable, self.batch_note = False, why

    def run(self, arrays: Mapping[str, Array], stop: Stop | None = None) -> dict[str, Array]:
        """Runs rows, blocking; raises RunFailed."""
        try:
            results = self._own.run(arrays, stop)
            return {name: self._check_output(name, results[name], arrays) for name in self._types}
        except RunFailed:
            raise
        except BaseException as error:  # someone else's code
            fault = classify_error(error) if isinstance(error, Exception) else "input"
            raise RunFailed(f"{self._class_path}: {type(error).__name__}: {error}", fault) from error

    def warm_up(self, arrays: Mapping[str, Array]) -> None:
        """Warm it up."""
        self.run(arrays)

    def _check_output(self, name: str, value: Any, arrays: Mapping[str, Array]) -> Array:
        tensor_spec = next(one for one in self.outputs if one.name == name)
        rows = len(next(iter(arrays.values())))
        if value.dtype != self._types[name] or len(value) != rows or not tensor_spec.fits(value.shape[1:]):
            wanted = f"{tensor_spec.datatype} {[rows, *tensor_spec.shape]}"
            raise ValueError(f"output {name!r} is a {value.dtype} {list(value.shape)}; allowed: {wanted}")
        return value  # type: ignore[no-any-return]

    def _create(self, folder: Path, version: Path, spec: ModelSpec, gpu: int) -> CustomEngine:
        try:
            made = self._class(folder)(version, spec, gpu)
        except ModelError:
            raise
        except BaseException as error:  # someone else's code: whatever it does, other models serve on
            raise self._refusal(f"{type(error).__name__}: {error}") from error
        if lacking := [name for name in _MEMBERS if not hasattr(made, name)]:
            raise self._refusal(f"it has no {', '.join(lacking)}; allowed: what jitney.OwnEngine has")
        for name in ("provider", "device", "runtime"):
            if not isinstance(getattr(made, name), str):
                raise self._refusal(f"{name} = {getattr(made, name)!r}; allowed: text")
        for name in ("inputs", "outputs"):
            tensor_specs = getattr(made, name)
            if not tensor_specs or not all(
                isinstance(one, TensorSpec) and one.datatype in DTYPES for one in tensor_specs
            ):
                allowed = f"jitney.Port, of the datatypes {', '.join(DTYPES)}"
                raise self._refusal(f"{name} = {tensor_specs!r}; allowed: one or more of {allowed}")
        if not isinstance(made, CustomEngine):
            raise self._refusal("it is no jitney.OwnEngine")
        return made

    def _class(self, folder: Path) -> Any:
        place, _, name = self._class_path.partition(":")
        if place.endswith(".py"):
            check_file(folder, folder / place, "engine", self._file)
            module = load_module(folder / place)
        else:
            module = import_module(place)
        found = getattr(module, name, None)
        if not isinstance(found, type):
            raise self._refusal(f"there is no class {name} in {place}")
        return found

    def _refusal(self, reason: str) -> ModelError:
        return ModelError(self._file, "engine", f'"{self._class_path}" can not be used: {reason}')
