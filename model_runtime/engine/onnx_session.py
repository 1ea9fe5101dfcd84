"""One ONNX file opened in ONNX Runtime by one provider: what came up, which nodes it has, and how arrays are run.

Refuses a silent fallback; knows no rows, images, labels or jobs.
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
from model_runtime.engine.device_info import device_name, query_driver
from model_runtime.engine.io_binding import IoBinding
from model_runtime.engine.onnx_runtime import VERSION, RunFailed, Stop, classify_error, clean_message, onnxruntime
from model_runtime.engine.providers import PROVIDER_NAMES, GpuOptions, ProviderOptions
from model_runtime.repository.onnx_metadata import OnnxMetadata, read_onnx_metadata
from model_runtime.spec.model_toml import ModelError
from model_runtime.tensor_spec import Array, TensorSpec

CAPI: Final = Path(onnxruntime.__file__).parent / "capi"
_NO_GRAPH: Final = "-1"  # what ONNX Runtime takes for: this run is not recorded


class ProviderUnavailable(Exception):
    """The provider can not be used here; the message says what is missing."""


class OnnxSession:
    """`provider`: what really runs it. `note`: what is not as it was asked for, empty where nothing.

    `placement`: how many nodes each provider has; empty where this ONNX Runtime does not tell.
    """

    def __init__(self, path: Path, provider: str, threads: int, gpu: GpuOptions) -> None:
        """Raises ModelError, or Unusable where the provider is what is wrong."""
        self.path, self.provider, self.note = path, provider, ""
        self._gpu = gpu
        self._session = self._open(threads)
        self.placement = _placement(self._session)
        self._output_names = [node.name for node in self._session.get_outputs()]
        self._bound: dict[int, IoBinding] = {}
        self._one_at_a_time = Lock()  # of what is bound
        # ONNX Runtime wants all runs of a session that records on one thread, and always the same.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recorded") if self._records else None
        if strangers := sum(count for name, count in self.placement.items() if name == "cpu" and provider != "cpu"):
            self._add_note(f"{strangers} of {sum(self.placement.values())} nodes run on the CPU")

    @property
    def inputs(self) -> Sequence[Any]:
        return list(self._session.get_inputs())

    @property
    def outputs(self) -> Sequence[Any]:
        return list(self._session.get_outputs())

    def run(self, feed: dict[str, Array], stop: Stop | None = None) -> dict[str, Array]:
        """Runs arrays as the model declares them; from several threads. Raises RunFailed."""
        if self._thread is None:
            return self._run(feed, stop)
        return self._thread.submit(self._run, feed, stop).result()

    def _run(self, feed: dict[str, Array], stop: Stop | None) -> dict[str, Array]:
        rows = _row_count(feed)
        bound = self._bound.get(rows)
        try:
            if bound is not None and bound.fits(feed):
                with self._one_at_a_time:
                    return bound.run(feed, self._options(stop, str(rows)))
            values = self._session.run(self._output_names, feed, self._options(stop, _NO_GRAPH))
        except Exception as error:
            raise RunFailed(clean_message(error), classify_error(error)) from error
        return dict(zip(self._output_names, values, strict=True))

    def bind_buffers(self, feed: dict[str, Array], device: str = "cuda") -> None:
        """Keep room for arrays of this size on the device, and record their run; raises RunFailed."""
        given = self.run(feed)
        try:
            self._bound[_row_count(feed)] = IoBinding(self._session, feed, given, device, self._gpu.device)
        except Exception as error:
            raise RunFailed(clean_message(error), classify_error(error)) from error
        again = self.run(feed)
        if any(not np.allclose(again[name], given[name], rtol=1e-2, atol=1e-3, equal_nan=True) for name in given):
            del self._bound[_row_count(feed)]
            self._add_note(f"batches of {_row_count(feed)} are not bound to the device: they answered otherwise so")

    @property
    def _records(self) -> bool:
        return self._gpu.graphs and self.provider == "cuda"

    def _options(self, stop: Stop | None, graph: str) -> Any:
        """Only a session that records must be told which graph a run is."""
        if not self._records:
            return stop and stop.options
        options = stop.options if stop else onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", graph)
        return options

    def _open(self, threads: int) -> Any:
        if self.provider == "cpu":
            return self._try(threads, providers.provider_options("cpu", self._gpu))
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it misses, and goes on
            onnxruntime.preload_dlls()
        if self.provider == "tensorrt":
            return self._open_with_tensorrt(threads)
        if not self._gpu.graphs:
            return self._try(threads, providers.provider_options("cuda", self._gpu))
        try:
            return self._try(threads, providers.provider_options("cuda", self._gpu))
        except ModelError as error:  # control flow, or a node that stays on the CPU: it runs all the same
            self._gpu = self._gpu._replace(graphs=False)
            session = self._try(threads, providers.provider_options("cuda", self._gpu))
            self._add_note(f"without CUDA graphs: {error.reason}")
            return session

    def _open_with_tensorrt(self, threads: int) -> Any:
        if missing := providers.load_tensorrt():
            raise ProviderUnavailable(missing)
        head, gpu = read_onnx_metadata(self.path), self._gpu
        _check_for_tensorrt(self.path, head, gpu)
        inputs = [TensorSpec(name, "", shape[1:]) for name, shape in head.inputs.items() if -1 in shape]
        if gpu.cache is None:
            return self._try(threads, providers.provider_options("tensorrt", gpu, inputs))
        facts = [head.digest, device_name("tensorrt", 0, gpu.device), VERSION, providers.tensorrt_version()]
        facts += [gpu.precision, str(gpu.largest)]
        with tensorrt_cache.open_engine_folder(
            gpu.cache, self.path.parent.parent.name, facts, 2 * head.size_bytes
        ) as engines:
            return self._try(threads, providers.provider_options("tensorrt", gpu, inputs, engines))

    def _try(self, threads: int, asked: ProviderOptions) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would burn the cores that decode the next batch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=asked, enable_fallback=0)
        except Exception as error:  # the runtime's errors share no base but Exception
            if self.provider != "cpu" and classify_error(error) == "device":
                raise ProviderUnavailable(f"the GPU does not take it: {clean_message(error)}") from error
            raise ModelError(self.path, None, f"ONNX Runtime can not load it: {clean_message(error)}") from error
        if session.get_providers()[0] != PROVIDER_NAMES[self.provider]:
            raise ProviderUnavailable(providers.provider_load_error(self.provider, CAPI))
        return session

    def _add_note(self, words: str) -> None:
        self.note = f"{self.note}; {words}" if self.note else words


def missing_for_provider(provider: str, gpu: int) -> str:
    """What this machine lacks for the provider, empty where nothing."""
    return (
        ""
        if provider == "cpu"
        else providers.missing_requirements(provider, gpu, query_driver(), onnxruntime.get_available_providers())
    )


def _check_for_tensorrt(path: Path, head: OnnxMetadata, gpu: GpuOptions) -> None:
    """Raises ModelError for what would make requests wait for a build, or promise what is not done."""
    free = [name for name, shape in head.inputs.items() if -1 in shape[1:]]
    if free:
        reason = (
            f"input {free[0]!r} has the shape {list(head.inputs[free[0]])}: each new size would be built in a request"
        )
        raise ModelError(path, "provider", f"{reason}; allowed with tensorrt: a free batch alone, or cuda")
    if gpu.precision == "int8" and "QuantizeLinear" not in head.operators:
        reason = "int8 needs a model that is quantized, and this one has no QuantizeLinear"
        raise ModelError(
            path, "tensorrt.precision", f"{reason}; allowed: what `jitney models optimize` writes, or fp16"
        )


def _row_count(feed: Mapping[str, Array]) -> int:
    """By any input that has rows."""
    return max((len(array) for array in feed.values() if array.ndim), default=0)


def _placement(session: Any) -> dict[str, int]:
    """Nodes by provider, in our words."""
    words = {long: short for short, long in PROVIDER_NAMES.items()}
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # noqa: BLE001 - an older ONNX Runtime has no such call, or was not built with it
        return {}
    counted: Counter[str] = Counter()
    for part in parts:
        counted[words.get(part.ep_name, part.ep_name)] += len(part.get_nodes())
    return dict(counted)
