"""Open an ONNX file: choose the execution provider, read inputs and outputs, determine batchability, and run rows.

`onnx_session` calls the runtime.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from batching.padding import Padding
from model_runtime.bfloat16 import BF16
from model_runtime.cpus import usable_cpus
from model_runtime.engine.batch_axes import BatchAxes, resolve_axes
from model_runtime.engine.batchability import Batchability, OutOfMemory, probe_batchability
from model_runtime.engine.device_info import device_name
from model_runtime.engine.list_outputs import ListOutput
from model_runtime.engine.onnx_runtime import VERSION, Fault, RunFailed, Stop, classify_error
from model_runtime.engine.onnx_session import OnnxSession, ProviderUnavailable, missing_for_provider
from model_runtime.engine.providers import PROVIDER_NAMES, GpuOptions, tensorrt_version
from model_runtime.repository.host_memory import format_bytes, row_bytes, usable_bytes
from model_runtime.repository.onnx_file import read_class_labels
from model_runtime.repository.path_checks import check_onnx
from model_runtime.spec.model_toml import ModelError
from model_runtime.spec.tensors import TensorKeys
from model_runtime.tensor_spec import DTYPES, Array, TensorSpec

__all__ = ["Fault", "GpuOptions", "OnnxEngine", "RunFailed", "Stop", "TensorSpec", "classify_error"]

_DATATYPES: Final = {
    "bool": "BOOL",
    "float16": "FP16",
    "bfloat16": BF16,
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class OnnxEngine:
    """A loaded ONNX model. `inputs`, `outputs`: tensor specs of one row. `provider`: the provider in use.

    `device`: its name; `gpu`: the number of the GPU, None on a CPU; `runtime`: the version of ONNX Runtime.
    `placement`: the number of nodes by provider. `provider_note`: differences from the requested provider.

    `batchable`: True: `run` accepts any number of rows; False: exactly one. `batch_note`: the reason, or a doubt.
    """

    def __init__(
        self,
        onnx_path: Path,
        provider: str = "auto",
        threads: int = 0,
        gpu: GpuOptions | None = None,
        keys: TensorKeys | None = None,
    ) -> None:
        """Open and test the model, which takes from milliseconds to minutes. Raises ModelError.

        `keys`: where the batch is, and what is answered, as model.toml says it.
        """
        self.path, gpu, keys = onnx_path, gpu or GpuOptions(), keys or TensorKeys()
        check_onnx(onnx_path)
        threads = threads or usable_cpus()
        self._session, note = _open(onnx_path, provider, threads, gpu, keys)
        self.provider = self._session.provider
        self.gpu = None if self.provider == "cpu" else gpu.device
        self.placement = self._session.placement
        self.runtime = _runtime(self.provider, gpu)
        self.device = device_name(self.provider, threads, gpu.device)
        self._selection_note = note
        inputs = [_declared_spec(onnx_path, "input", node) for node in self._session.inputs]
        answered = set(keys.answered([node.name for node in self._session.outputs]))
        lists = self._session.list_outputs
        outputs = [
            TensorSpec(node.name, lists[node.name].datatype, lists[node.name].shape)
            if node.name in lists
            else _declared_spec(onnx_path, "output", node)
            for node in self._session.outputs
            if node.name in answered
        ]
        names = {node.name: _dim_names(node) for node in (*self._session.inputs, *self._session.outputs)}
        axes = resolve_axes(keys, inputs, outputs, names)
        _check_tensor_specs(onnx_path, inputs, outputs, axes)
        self._session.output_names = list(axes.outputs)
        self.batchable, self.batch_note, self._axes = _probe(
            onnx_path, partial(probe_batchability, inputs, outputs, self._session.run, axes, names)
        )
        self.checked: bool | None = None  # result of the consistency check; None if it did not run or proves nothing
        self.drift: float | None = None  # the largest that it found
        self.inputs = self._axes.row_specs(inputs, self._axes.inputs)
        class_labels = read_class_labels(onnx_path)
        self.outputs = [
            _with_labels(spec, lists.get(spec.name), class_labels)
            for spec in self._axes.row_specs(outputs, self._axes.outputs)
        ]

    @property
    def provider_note(self) -> str:
        return "; ".join(filter(None, [self._selection_note, self._session.note]))

    @property
    def batch_axes(self) -> Mapping[str, int]:
        """Return the batch dimension of each input that has one."""
        return {name: axis for name, axis in self._axes.inputs.items() if axis is not None}

    @property
    def unbatched(self) -> list[str]:
        """Return the inputs and outputs that have no batch dimension in the file."""
        return [name for axes in (self._axes.inputs, self._axes.outputs) for name, axis in axes.items() if axis is None]

    @property
    def declared_padding(self) -> Padding | None:
        """Return the padding that model.toml describes."""
        return self._axes.padding

    def disable_batching(self, why: str) -> None:
        """Run one row at a time from now on, because rows affect each other."""
        self.batchable, self.batch_note = False, why

    def run(self, arrays: Mapping[str, Array], stop: Stop | None = None) -> dict[str, Array]:
        """Run a batch: the first dimension of arrays and results counts rows. Blocks. Thread-safe. Raises RunFailed."""
        rows = _row_count(arrays)
        results = self._session.run(self._axes.arrange_inputs(arrays, rows), stop, rows)
        return self._axes.arrange_outputs(results, rows)

    def warm_up(self, arrays: Mapping[str, Array]) -> None:
        """Prepare this batch size; on a GPU, bind its buffers and record its CUDA graph. Raises RunFailed."""
        is_bindable = all(
            spec.is_fixed and spec.datatype not in {"BYTES", BF16} and spec.name not in self._session.list_outputs
            for spec in (*self.inputs, *self.outputs)
        )
        if self.provider == "cpu" or not is_bindable:
            self.run(arrays)
        else:
            self._session.bind_buffers(self.arrange(arrays), rows=_row_count(arrays))

    def arrange(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the runtime takes for these rows: the batch where the model has it, and constants."""
        return self._axes.arrange_inputs(arrays, _row_count(arrays))


def _open(path: Path, requested: str, threads: int, gpu: GpuOptions, keys: TensorKeys) -> tuple[OnnxSession, str]:
    """Open a session. Return it, and why `auto` fell back to the CPU, else "". Raises ModelError."""
    provider = "cuda" if requested == "auto" else requested
    others = [name for name in PROVIDER_NAMES if name != requested and not missing_for_provider(name, gpu.device)]
    missing = missing_for_provider(provider, gpu.device)
    if not missing:
        try:
            return OnnxSession(path, provider, threads, gpu, keys), ""
        except ProviderUnavailable as error:
            missing = str(error)
            others = ["cpu"]  # the other GPU provider may lack the same
    if requested == "auto":
        return OnnxSession(path, "cpu", threads, gpu, keys), f"auto uses the CPU: {missing}"
    allowed = ", ".join(["auto", *others])
    raise ModelError(path, "provider", f'"{requested}" cannot be used: {missing}; allowed here: {allowed}')


def _runtime(provider: str, gpu: GpuOptions) -> str:
    """Return the runtime version that a profile depends on."""
    return f"{VERSION}, TensorRT {tensorrt_version()} {gpu.precision}" if provider == "tensorrt" else VERSION


def _declared_spec(path: Path, what: str, node: Any) -> TensorSpec:
    """Return the declared tensor spec, with the batch dimension."""
    kind = re.fullmatch(r"tensor\((\w+)\)", node.type)
    datatype = _DATATYPES.get(kind[1]) if kind else None
    if datatype is None:
        allowed = ", ".join(sorted(_DATATYPES.values()))
        raise ModelError(path, None, f"{what} {node.name!r} is a {node.type}; allowed: tensors of {allowed}")
    shape = tuple(side if isinstance(side, int) and side >= 0 else -1 for side in node.shape)
    return TensorSpec(node.name, datatype, shape)


def _with_labels(
    spec: TensorSpec, list_output: ListOutput | None, class_labels: Sequence[tuple[str | int, ...]]
) -> TensorSpec:
    """Return the spec of an output row with the labels of its values: a map's keys, or the only ones that fit."""
    if list_output is not None and list_output.labels:
        return spec._replace(shape=(len(list_output.labels),), labels=list_output.labels)
    fitting = [labels for labels in class_labels if (len(labels),) == spec.shape]
    return spec._replace(labels=fitting[0]) if len(fitting) == 1 and DTYPES[spec.datatype].kind == "f" else spec


def _dim_names(node: Any) -> list[str]:
    """Return the names of free dimensions; "" for others. Some exporters write a number as the name."""
    if not node.type.startswith("tensor("):
        return []
    return [side if isinstance(side, str) and not side.lstrip("-").isdigit() else "" for side in node.shape]


def _check_tensor_specs(
    path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], axes: BatchAxes
) -> None:
    """Raise ModelError for no inputs, a fixed batch size, or a row that needs more than the usable memory."""
    if not inputs:
        raise ModelError(path, None, "the model takes no inputs")
    for tensor_spec in inputs:
        axis = axes.inputs.get(tensor_spec.name)
        if axis is not None and tensor_spec.shape[axis] not in {-1, 1}:
            name, shape = tensor_spec.name, list(tensor_spec.shape)
            reason = f"input {name!r} has the shape {shape}: the batch size is fixed to {shape[axis]}"
            allowed = (
                "a dynamic first dimension, or 1; `jitney models doctor` may repair it; if the batch is elsewhere, "
                f'[inputs.{name}] batch_axis = … in model.toml, and if there is none, batch_axis = "none"'
            )
            raise ModelError(path, None, f"{reason}; allowed: {allowed}")
    # Running these would end the process: the kernel kills it when overcommitted memory runs out.
    needed, usable = row_bytes([*inputs, *outputs]), usable_bytes()
    if needed > usable:
        largest = max([*inputs, *outputs], key=lambda tensor_spec: row_bytes([tensor_spec]))
        tensor = f"{largest.name!r} is {largest.datatype} {list(largest.shape)}"
        reason = f"{tensor}: one row needs at least {format_bytes(needed)}"
        raise ModelError(path, None, f"{reason}; allowed here: {format_bytes(usable)}")


def _probe(path: Path, probe: Callable[[], Batchability]) -> Batchability:
    try:
        return probe()
    except OutOfMemory as error:
        reason = f"one row needs more memory than the {format_bytes(usable_bytes())} of this machine: {error}"
        raise ModelError(path, None, reason) from error


def _row_count(arrays: Mapping[str, Array]) -> int:
    return len(next(iter(arrays.values())))
