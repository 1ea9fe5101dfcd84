"""Import ONNX Runtime without telemetry and logging, stop its runs, and classify its errors.

Other modules of the engine take `onnxruntime` from here.
"""

import os
import re
from typing import Final, Literal

# Linux wheels send telemetry unless it is disabled before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

__all__ = [
    "VERSION",
    "Fault",
    "RunFailed",
    "Stop",
    "classify_error",
    "clean_message",
    "missing_operator",
    "onnxruntime",
]

# Errors are raised and reported once; the runtime's log would repeat them on stderr.
onnxruntime.set_default_logger_severity(4)

VERSION: Final[str] = onnxruntime.__version__
Fault = Literal["input", "memory", "device", "stopped"]

_OUT_OF_MEMORY: Final = re.compile(r"failed to allocate|bad.?alloc|out of memory|alloc_failed", re.IGNORECASE)

# After one of these errors the CUDA context, and so the process, is unusable.
_DEVICE_LOST: Final = re.compile(
    r"cuda (failure|error)|cudaError|CUDNN_STATUS|CUBLAS_STATUS|device-side assert", re.IGNORECASE
)
_OPSET_TOO_NEW: Final = re.compile(r"official support for domain (\S+) is till opset (\d+)")
_OPSET_TOO_OLD: Final = re.compile(r"Could not find an implementation for (\w+)\((\d+)\)")
_UNKNOWN_OPERATOR: Final = re.compile(r"No Op registered for (\w+)")
_GPU_ERROR: Final = re.compile(r"(CUDA|CUDNN|CUBLAS) failure \d+: [^;]+")
_STOPPED: Final = re.compile(r"terminate flag", re.IGNORECASE)


class RunFailed(Exception):
    """A run failed. `fault` is the cause.

    `input`: the arrays are invalid; `memory`: out of memory, fewer rows may succeed; `device`: the device is lost, and
    nothing can run in this process any more; `stopped`: a Stop ended the run.
    """

    def __init__(self, reason: str, fault: Fault) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fault = fault


class Stop:
    """Stops runs: current runs between two operators, later runs at once. Safe from any thread."""

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()
        self.options.log_severity_level = 4

    def now(self) -> None:
        """Stop current and later runs."""
        self.options.terminate = True

    @property
    def is_set(self) -> bool:
        """Return true after `now`. A custom engine checks this between its steps."""
        return bool(self.options.terminate)


def classify_error(error: Exception) -> Fault:
    """Return the cause of a failed run, from the runtime's message."""
    text = str(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):  # first: CUDA stays usable after "out of memory"
        return "memory"
    if _DEVICE_LOST.search(text):
        return "device"
    return "stopped" if _STOPPED.search(text) else "input"


def missing_operator(error: Exception) -> str:
    """Return the operator of which the runtime has no implementation for the opset, the types and the device; or ""."""
    found = _OPSET_TOO_OLD.search(str(error))
    return found[1] if found else ""


def clean_message(error: Exception) -> str:
    """Return the runtime's message on one line, without prefixes and source locations."""
    if newer := _OPSET_TOO_NEW.search(str(error)):
        domain, newest = newer.groups()
        return f"its opset of {domain} is newer than ONNX Runtime {VERSION} supports; allowed: up to {newest}"
    if unknown := _UNKNOWN_OPERATOR.search(str(error)):
        return f"ONNX Runtime {VERSION} does not support the operator {unknown[1]}; allowed: operators of ONNX"
    text = re.sub(
        r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?", "", " ".join(str(error).split())
    )
    if old := _OPSET_TOO_OLD.search(text):
        operator, opset = old.groups()
        return f"it does not support {operator} of opset {opset}; allowed: an export for a newer opset"
    if gpu_error := _GPU_ERROR.search(text):
        return gpu_error[0].strip()  # without the source location
    text = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z])", "", text)  # its source location
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-190:]}"
