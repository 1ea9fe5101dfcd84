"""One ONNX file as a model: its rows, whether it can be batched, and which provider was chosen to run it.

Knows no images, labels or jobs; `onnx_session` speaks to the runtime.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from model_runtime.engine.batchability import Batchability, OutOfMemory, Run, probe_batchability
from model_runtime.engine.device_info import device_name
from model_runtime.engine.io_checks import check_tensor_specs
from model_runtime.engine.onnx_runtime import VERSION, Fault, RunFailed, Stop, classify_error
from model_runtime.engine.onnx_session import OnnxSession, ProviderUnavailable, missing_for_provider
from model_runtime.engine.providers import PROVIDER_NAMES, GpuOptions, tensorrt_version
from model_runtime.repository.host_memory import format_bytes, usable_bytes
from model_runtime.repository.path_checks import check_onnx
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array, TensorSpec

__all__ = ["Fault", "GpuOptions", "OnnxEngine", "RunFailed", "Stop", "TensorSpec", "classify_error"]

_DATATYPES: Final = {
    "bool": "BOOL",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class OnnxEngine:
    """A loaded model. `inputs`, `outputs`: ports of one row. `provider`: what really runs it.

    `device`: what that runs on, and `gpu` its number there, None on a CPU; `runtime`: of which version.
    `placement`: how many nodes each provider has; `provider_note`: what is not as it was asked for.

    `batchable`: whether `run` takes any number of rows, else exactly one; `batch_note` says why, or what is uncertain.
    """

    def __init__(
        self, onnx_path: Path, provider: str = "auto", threads: int = 0, gpu: GpuOptions | None = None
    ) -> None:
        """Opens and tries the model, which takes from milliseconds to minutes; raises ModelError."""
        self.path, gpu = onnx_path, gpu or GpuOptions()
        check_onnx(onnx_path)
        threads = threads or _cpus()
        self._session, note = _open(onnx_path, provider, threads, gpu)
        self.provider = self._session.provider
        self.gpu = None if self.provider == "cpu" else gpu.device
        self.placement = self._session.placement
        self.runtime = _runtime(self.provider, gpu)
        self.device = device_name(self.provider, threads, gpu.device)
        self._first_note = note
        inputs = [_declared_spec(onnx_path, "input", node) for node in self._session.inputs]
        outputs = [_declared_spec(onnx_path, "output", node) for node in self._session.outputs]
        check_tensor_specs(onnx_path, inputs, outputs)
        self._scalars = frozenset(tensor_spec.name for tensor_spec in inputs if not tensor_spec.shape)
        self.batchable, self.batch_note, self._whole = _probe(onnx_path, inputs, outputs, self._session.run)
        self.checked: bool | None = None  # whether it was tried that rows do not mix, and with what result
        self.inputs = [_row_spec(tensor_spec) for tensor_spec in inputs]
        self.outputs = [
            tensor_spec if tensor_spec.name in self._whole else _row_spec(tensor_spec) for tensor_spec in outputs
        ]

    @property
    def provider_note(self) -> str:
        return "; ".join(filter(None, [self._first_note, self._session.note]))

    def disable_batching(self, why: str) -> None:
        """Give it one row at a time from now on, as it was found out that rows do not keep to themselves."""
        self.batchable, self.batch_note = False, why

    def run(self, arrays: Mapping[str, Array], stop: Stop | None = None) -> dict[str, Array]:
        """Runs rows, blocking; safe from several threads. Arrays and results have the rows first; raises RunFailed."""
        results = self._session.run(self._feed(arrays), stop)
        results.update({name: results[name][np.newaxis] for name in self._whole})
        return results

    def warm_up(self, arrays: Mapping[str, Array]) -> None:
        """Make batches of this size ready: on a GPU their memory is kept, and their run recorded. Raises RunFailed."""
        if self.provider == "cpu" or not all(
            tensor_spec.is_fixed for tensor_spec in self.outputs
        ):  # no room is right for all runs
            self.run(arrays)
        else:
            self._session.bind_buffers(self._feed(arrays))

    def _feed(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        # Views on a frame may be unaligned, which the runtime does not promise to take.
        feed = {name: np.require(array, requirements=("C", "A")) for name, array in arrays.items()}
        feed.update({name: feed[name].reshape(()) for name in self._scalars & feed.keys()})
        return feed


def _open(path: Path, requested: str, threads: int, gpu: GpuOptions) -> tuple[OnnxSession, str]:
    """By the provider wanted, and why it is another, which only `auto` allows; raises ModelError."""
    provider = "cuda" if requested == "auto" else requested
    others = [name for name in PROVIDER_NAMES if name != requested and not missing_for_provider(name, gpu.device)]
    missing = missing_for_provider(provider, gpu.device)
    if not missing:
        try:
            return OnnxSession(path, provider, threads, gpu), ""
        except ProviderUnavailable as error:
            missing = str(error)
            others = ["cpu"]  # what it misses may be what the others would miss
    if requested == "auto":
        return OnnxSession(path, "cpu", threads, gpu), f"auto took the CPU: {missing}"
    allowed = ", ".join(["auto", *others])
    raise ModelError(path, "provider", f'"{requested}" can not be used: {missing}; allowed here: {allowed}')


def _runtime(provider: str, gpu: GpuOptions) -> str:
    """What a measured profile depends on, beside file and device."""
    return f"{VERSION}, TensorRT {tensorrt_version()} {gpu.precision}" if provider == "tensorrt" else VERSION


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _declared_spec(path: Path, what: str, node: Any) -> TensorSpec:
    """A port with the batch dimension still in its shape."""
    kind = re.fullmatch(r"tensor\((\w+)\)", node.type)
    datatype = _DATATYPES.get(kind[1]) if kind else None
    if datatype is None:
        allowed = ", ".join(sorted(_DATATYPES.values()))
        raise ModelError(path, None, f"{what} {node.name!r} is a {node.type}; allowed: tensors of {allowed}")
    shape = tuple(side if isinstance(side, int) and side >= 0 else -1 for side in node.shape)
    return TensorSpec(node.name, datatype, shape)


def _probe(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], run: Run) -> Batchability:
    try:
        return probe_batchability(inputs, outputs, run)
    except OutOfMemory as error:
        reason = f"one row needs more memory than there is ({format_bytes(usable_bytes())} in all): {error}"
        raise ModelError(path, None, reason) from error


def _row_spec(tensor_spec: TensorSpec) -> TensorSpec:
    return tensor_spec._replace(shape=tensor_spec.shape[1:])
