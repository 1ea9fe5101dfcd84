"""Open an ONNX file in ONNX Runtime with one execution provider, and run arrays.

Raises an error where ONNX Runtime would silently fall back to another provider.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np

from model_runtime.engine import providers, tensorrt_cache
from model_runtime.engine.batch_axes import without
from model_runtime.engine.bf16_run import Bf16Run, missing_bf16_operator
from model_runtime.engine.device_info import device_name, query_driver
from model_runtime.engine.io_binding import IoBinding
from model_runtime.engine.list_outputs import ListOutput
from model_runtime.engine.onnx_runtime import VERSION, RunFailed, Stop, classify_error, clean_message, onnxruntime
from model_runtime.engine.providers import PROVIDER_NAMES, GpuOptions, ProviderOptions
from model_runtime.repository.onnx_file import OnnxMetadata, read_onnx_metadata
from model_runtime.spec.model_toml import ModelError
from model_runtime.spec.tensors import TensorKeys
from model_runtime.tensor_spec import Array, TensorSpec

CAPI: Final = Path(onnxruntime.__file__).parent / "capi"
_NO_GRAPH: Final = "-1"  # disables CUDA graph recording for a run


class ProviderUnavailable(Exception):
    """The provider cannot be used on this machine. The message says what is missing."""


class OnnxSession:
    """A session of ONNX Runtime. `note`: differences from the requested options, or "".

    `placement`: the number of nodes by provider; empty if ONNX Runtime does not report it. `output_names`: the outputs
    to compute, at first all of them. `list_outputs`: those that are no tensors, by name; a run returns arrays for them.
    """

    def __init__(
        self, path: Path, provider: str, threads: int, gpu: GpuOptions, keys: TensorKeys | None = None
    ) -> None:
        """Open the file. Raises ModelError, or ProviderUnavailable if the provider is the cause."""
        self.path, self.provider, self.note = path, provider, ""
        self._keys = keys or TensorKeys()
        self._gpu = gpu
        self._session = self._open(threads)
        self.placement = _placement(self._session)
        self.output_names = [node.name for node in self._session.get_outputs()]
        found = (ListOutput.of(node.name, node.type) for node in self._session.get_outputs())
        self.list_outputs = {each.name: each for each in found if each is not None}
        self._bf16 = Bf16Run.of(path, self._session)
        self._bound: dict[int, IoBinding] = {}
        self._binding_lock = Lock()  # bound buffers allow one run at a time
        # ONNX Runtime requires all runs of a session with CUDA graphs on the same thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cuda-graphs") if self._uses_graphs else None
        if on_cpu := sum(count for name, count in self.placement.items() if name == "cpu" and provider != "cpu"):
            self._add_note(f"{on_cpu} of {sum(self.placement.values())} nodes run on the CPU")

    @property
    def inputs(self) -> Sequence[Any]:
        return list(self._session.get_inputs())

    @property
    def outputs(self) -> Sequence[Any]:
        return list(self._session.get_outputs())

    def run(self, feed: dict[str, Array], stop: Stop | None = None, rows: int | None = None) -> dict[str, Array]:
        """Run arrays of the declared shapes. `rows`: the batch size. Safe from several threads. Raises RunFailed."""
        rows = _row_count(feed) if rows is None else rows
        if self._thread is None:
            return self._run(feed, stop, rows)
        return self._thread.submit(self._run, feed, stop, rows).result()

    def _run(self, feed: dict[str, Array], stop: Stop | None, rows: int) -> dict[str, Array]:
        bound = self._bound.get(rows)
        try:
            if bound is not None and bound.fits(feed):
                with self._binding_lock:
                    return bound.run(feed, self._options(stop, str(rows)))
            options = self._options(stop, _NO_GRAPH)
            if self._bf16 is not None:
                return self._bf16.run(self.output_names, feed, options)
            values = self._session.run(self.output_names, feed, options)
            if self.list_outputs:
                values = [
                    self.list_outputs[name].to_array(value) if name in self.list_outputs else value
                    for name, value in zip(self.output_names, values, strict=True)
                ]
        except Exception as error:
            raise RunFailed(clean_message(error), classify_error(error)) from error
        return dict(zip(self.output_names, values, strict=True))

    def bind_buffers(self, feed: dict[str, Array], device: str = "cuda", rows: int | None = None) -> None:
        """Bind buffers on the device for this batch size, and record its CUDA graph. Raises RunFailed."""
        rows = _row_count(feed) if rows is None else rows
        unbound = self.run(feed, None, rows)
        try:
            self._bound[rows] = IoBinding(self._session, feed, unbound, device, self._gpu.device)
        except Exception as error:
            raise RunFailed(clean_message(error), classify_error(error)) from error
        bound = self.run(feed, None, rows)
        if any(not np.allclose(bound[name], unbound[name], rtol=1e-2, atol=1e-3, equal_nan=True) for name in unbound):
            del self._bound[rows]
            self._add_note(f"batches of {rows} use no bound buffers: their results differed")

    @property
    def _uses_graphs(self) -> bool:
        return self._gpu.graphs and self.provider == "cuda"

    def _options(self, stop: Stop | None, graph: str) -> Any:
        """Return the run options; with CUDA graphs they name the graph of the run."""
        if not self._uses_graphs:
            return stop and stop.options
        options = stop.options if stop else onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", graph)
        return options

    def _open(self, threads: int) -> Any:
        if self.provider == "cpu":
            return self._create_session(threads, providers.provider_options("cpu", self._gpu))
        with contextlib.redirect_stdout(io.StringIO()):  # it prints missing libraries and continues
            onnxruntime.preload_dlls()
        if self.provider == "tensorrt":
            return self._open_with_tensorrt(threads)
        if not self._gpu.graphs:
            return self._create_session(threads, providers.provider_options("cuda", self._gpu))
        try:
            return self._create_session(threads, providers.provider_options("cuda", self._gpu))
        except ModelError as error:  # control flow, or a node on the CPU: the model runs without graphs
            self._gpu = self._gpu._replace(graphs=False)
            session = self._create_session(threads, providers.provider_options("cuda", self._gpu))
            self._add_note(f"without CUDA graphs: {error.reason}")
            return session

    def _open_with_tensorrt(self, threads: int) -> Any:
        if missing := providers.load_tensorrt():
            raise ProviderUnavailable(missing)
        metadata, gpu = read_onnx_metadata(self.path), self._gpu
        _check_for_tensorrt(self.path, metadata, gpu, self._keys)
        inputs = [TensorSpec(name, "", shape) for name, shape in metadata.inputs.items() if -1 in shape]
        if gpu.cache is None:
            return self._create_session(threads, providers.provider_options("tensorrt", gpu, inputs))
        facts = [metadata.digest, device_name("tensorrt", 0, gpu.device), VERSION, providers.tensorrt_version()]
        facts += [gpu.precision, str(gpu.largest)]
        with tensorrt_cache.open_engine_folder(
            gpu.cache, self.path.parent.parent.name, facts, 2 * metadata.size_bytes
        ) as engines:
            return self._create_session(threads, providers.provider_options("tensorrt", gpu, inputs, engines))

    def _create_session(self, threads: int, provider_options: ProviderOptions) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would take CPU time from preprocessing the next batch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            session = onnxruntime.InferenceSession(
                str(self.path), options, providers=provider_options, enable_fallback=0
            )
        except Exception as error:  # the runtime's errors have no common base but Exception
            if self.provider != "cpu" and classify_error(error) == "device":
                raise ProviderUnavailable(f"the GPU refuses it: {clean_message(error)}") from error
            reason = missing_bf16_operator(self.path, error) or clean_message(error)
            raise ModelError(self.path, None, f"ONNX Runtime cannot load it: {reason}") from error
        if session.get_providers()[0] != PROVIDER_NAMES[self.provider]:
            raise ProviderUnavailable(providers.provider_load_error(self.provider, CAPI))
        return session

    def _add_note(self, note: str) -> None:
        self.note = f"{self.note}; {note}" if self.note else note


def missing_for_provider(provider: str, gpu: int) -> str:
    """Return what this machine lacks for the provider; empty if nothing."""
    return (
        ""
        if provider == "cpu"
        else providers.missing_requirements(provider, gpu, query_driver(), onnxruntime.get_available_providers())
    )


def _check_for_tensorrt(path: Path, metadata: OnnxMetadata, gpu: GpuOptions, keys: TensorKeys | None = None) -> None:
    """Raise ModelError for a model that would need engine builds during requests, or cannot run in int8."""
    keys = keys or TensorKeys()
    written = {name: keys.axis_of(name, keys.inputs) or 0 for name in metadata.inputs}
    axes = {name: None if axis == "none" else axis for name, axis in written.items()}
    free = [name for name, shape in metadata.inputs.items() if -1 in without(shape, axes[name])]
    if free:
        shape = list(metadata.inputs[free[0]])
        reason = f"input {free[0]!r} has the shape {shape}: each new size would be built during a request"
        raise ModelError(path, "provider", f"{reason}; allowed: only the batch dimension free, or the provider cuda")
    if gpu.precision == "int8" and "QuantizeLinear" not in metadata.operators:
        reason = "int8 needs a quantized model, but this model has no QuantizeLinear"
        raise ModelError(
            path, "tensorrt.precision", f"{reason}; allowed: what `jitney models optimize` writes, or fp16"
        )


def _row_count(feed: Mapping[str, Array]) -> int:
    """Return the batch size, from any input that is not a scalar."""
    return max((len(array) for array in feed.values() if array.ndim), default=0)


def _placement(session: Any) -> dict[str, int]:
    """Return the number of nodes by short provider name."""
    short_names = {long: short for short, long in PROVIDER_NAMES.items()}
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # noqa: BLE001 - an older ONNX Runtime has no such call, or was not built with it
        return {}
    counted: Counter[str] = Counter()
    for part in parts:
        counted[short_names.get(part.ep_name, part.ep_name)] += len(part.get_nodes())
    return dict(counted)
