"""One ONNX file opened in ONNX Runtime on one device; the only module that imports onnxruntime.

Decides which provider runs and refuses a silent fallback; knows no images, labels or jobs.
"""

import contextlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from worker.models.batchable import NoMemory, Run, Verdict, judge
from worker.models.confines import check_onnx
from worker.models.declared import check_ports
from worker.models.device import gpu_count, name_of
from worker.models.memory import shown, usable_bytes
from worker.models.port import Array, Port
from worker.models.spec import ModelError

# Its Linux wheels report usage over the network unless they are told not to before they are loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

__all__ = ["Engine", "Fault", "Port", "RunFailed", "Stop", "fault_of"]

# What may run a model → what ONNX Runtime is asked for, first choice first.
_PROVIDERS: Final[dict[str, list[str | tuple[str, dict[str, str]]]]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": [
        # The default, EXHAUSTIVE, tunes anew for every batch size that comes by.
        ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}),
        "CPUExecutionProvider",
    ],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
_NAMES: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_DATATYPES: Final = {
    "bool": "BOOL",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_OUT_OF_MEMORY: Final = re.compile(r"failed to allocate|bad.?alloc|out of memory|alloc_failed", re.IGNORECASE)

# After one of these a CUDA context is of no use any more, nor is the process that holds it.
_DEVICE_LOST: Final = re.compile(
    r"cuda (failure|error)|cudaError|CUDNN_STATUS|CUBLAS_STATUS|device-side assert", re.IGNORECASE
)
_TOO_NEW: Final = re.compile(r"official support for domain (\S+) is till opset (\d+)")
_TOO_OLD: Final = re.compile(r"Could not find an implementation for (\w+)\((\d+)\)")
_NO_OPERATOR: Final = re.compile(r"No Op registered for (\w+)")
_STOPPED: Final = re.compile(r"terminate flag", re.IGNORECASE)

# What goes wrong is raised and reported by us, once; the runtime's own log would repeat it on stderr.
onnxruntime.set_default_logger_severity(4)


Fault = Literal["input", "memory", "device", "stopped"]


class RunFailed(Exception):
    """The model could not run these arrays, and `fault` says why.

    `input`: they are wrong; `memory`: they need more than there is, so fewer rows may pass; `device`: it is lost, and
    nothing runs in this process any more; `stopped`: it was told to stop.
    """

    def __init__(self, reason: str, fault: Fault) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fault = fault


class Stop:
    """Ends runs: those under way between two of their operators, later ones at once. Safe from any thread."""

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()
        self.options.log_severity_level = 4

    def now(self) -> None:
        """End them."""
        self.options.terminate = True


class Engine:
    """A loaded model. `inputs`, `outputs`: ports of one row. `provider`: what really runs it.

    `device`: what that runs on; `runtime`: of which version.

    `batchable`: whether `run` takes any number of rows, else exactly one; `batch_note` says why, or what is uncertain.
    """

    def __init__(self, onnx_path: Path, provider: str = "auto", threads: int = 0) -> None:
        """Opens and tries the model, which takes from milliseconds to minutes; raises ModelError."""
        self.path = onnx_path
        check_onnx(onnx_path)
        self.provider = _choose(onnx_path, provider)
        self.runtime: str = onnxruntime.__version__
        self.device = name_of(self.provider, threads or _cpus())
        self._session = _open(onnx_path, self.provider, threads)
        inputs = [_declared(onnx_path, "input", node) for node in self._session.get_inputs()]
        outputs = [_declared(onnx_path, "output", node) for node in self._session.get_outputs()]
        check_ports(onnx_path, inputs, outputs)
        self._scalars = frozenset(port.name for port in inputs if not port.shape)
        self._whole: frozenset[str] = frozenset()
        self._output_names = [port.name for port in outputs]
        self.batchable, self.batch_note, self._whole = _judged(onnx_path, inputs, outputs, self._run_as_declared)
        self.checked: bool | None = None  # whether it was tried that rows do not mix, and with what result
        self.inputs = [_row(port) for port in inputs]
        self.outputs = [port if port.name in self._whole else _row(port) for port in outputs]

    def run_alone(self, why: str) -> None:
        """Give it one row at a time from now on, as it was found out that rows do not keep to themselves."""
        self.batchable, self.batch_note = False, why

    def run(self, arrays: Mapping[str, Array], stop: Stop | None = None) -> dict[str, Array]:
        """Runs rows, blocking; safe from several threads. Arrays and results have the rows first; raises RunFailed."""
        # Views on a frame may be unaligned, which the runtime does not promise to take.
        feed = {name: np.require(array, requirements=("C", "A")) for name, array in arrays.items()}
        feed.update({name: feed[name].reshape(()) for name in self._scalars & feed.keys()})
        results = self._run_as_declared(feed, stop)
        results.update({name: results[name][np.newaxis] for name in self._whole})
        return results

    def _run_as_declared(self, feed: dict[str, Array], stop: Stop | None = None) -> dict[str, Array]:
        try:
            values: Sequence[Array] = self._session.run(self._output_names, feed, stop and stop.options)
        except Exception as error:
            raise RunFailed(_plain(error), fault_of(error)) from error
        return dict(zip(self._output_names, values, strict=True))


def fault_of(error: Exception) -> Fault:
    """Tell whose fault a failed run is, by what the runtime says of it."""
    text = str(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):  # first: CUDA's "out of memory" leaves it usable
        return "memory"
    if _DEVICE_LOST.search(text):
        return "device"
    return "stopped" if _STOPPED.search(text) else "input"


def _choose(path: Path, wanted: str) -> str:
    """The provider to open; raises ModelError where a demanded one can not be used."""
    if wanted == "auto":
        return "cpu" if _missing("cuda") else "cuda"
    if missing := _missing(wanted):
        allowed = ", ".join(["auto", *(name for name in _NAMES if not _missing(name))])
        raise ModelError(path, "provider", f'"{wanted}" can not be used: {missing}; allowed here: {allowed}')
    return wanted


def _missing(provider: str) -> str:
    """What this machine lacks for the provider, empty where nothing. Available providers only say what was built in."""
    if provider == "cpu":
        return ""
    lacks = []
    if _NAMES[provider] not in onnxruntime.get_available_providers():
        lacks.append(f"the installed onnxruntime {onnxruntime.__version__} has no {_NAMES[provider]}")
    if not gpu_count():
        lacks.append("no NVIDIA GPU answers through libcuda.so.1")
    return " and ".join(lacks)


def _open(path: Path, provider: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or _cpus()
    options.inter_op_num_threads = 1
    # Spinning threads would burn the cores that decode the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        if provider != "cpu":
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it misses, and goes on
                onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(str(path), options, providers=_PROVIDERS[provider], enable_fallback=0)
    except Exception as error:  # the runtime's errors share no base but Exception
        raise ModelError(path, None, f"ONNX Runtime can not load it: {_plain(error)}") from error
    running = session.get_providers()
    if running[0] != _NAMES[provider]:
        raise ModelError(path, "provider", f'"{provider}" was asked for and did not come up; running: {running}')
    return session


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _declared(path: Path, what: str, node: Any) -> Port:
    """A port with the batch dimension still in its shape."""
    kind = re.fullmatch(r"tensor\((\w+)\)", node.type)
    datatype = _DATATYPES.get(kind[1]) if kind else None
    if datatype is None:
        allowed = ", ".join(sorted(_DATATYPES.values()))
        raise ModelError(path, None, f"{what} {node.name!r} is a {node.type}; allowed: tensors of {allowed}")
    shape = tuple(side if isinstance(side, int) and side >= 0 else -1 for side in node.shape)
    return Port(node.name, datatype, shape)


def _judged(path: Path, inputs: Sequence[Port], outputs: Sequence[Port], run: Run) -> Verdict:
    try:
        return judge(inputs, outputs, run)
    except NoMemory as error:
        reason = f"one row needs more memory than there is ({shown(usable_bytes())} in all): {error}"
        raise ModelError(path, None, reason) from error


def _row(port: Port) -> Port:
    return port._replace(shape=port.shape[1:])


def _plain(error: Exception) -> str:
    """The runtime's message on one line, without its prefixes."""
    if newer := _TOO_NEW.search(str(error)):
        domain, newest = newer.groups()
        return (
            f"its opset of {domain} is newer than ONNX Runtime {onnxruntime.__version__} knows; allowed: up to {newest}"
        )
    if unknown := _NO_OPERATOR.search(str(error)):
        return f"the operator {unknown[1]} is unknown to ONNX Runtime {onnxruntime.__version__}; allowed: those of ONNX"
    text = re.sub(
        r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?", "", " ".join(str(error).split())
    )
    if old := _TOO_OLD.search(text):
        operator, opset = old.groups()
        return f"it has no {operator} as of opset {opset} any more; allowed: the model, exported for a newer opset"
    text = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z])", "", text)  # where in its sources
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-190:]}"
