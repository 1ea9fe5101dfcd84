"""ONNX Runtime, made quiet before it is loaded; what ends its runs early, and whose fault it is when one fails.

Only this module and `onnx_session` name it.
"""

import os
import re
from typing import Final, Literal

# Its Linux wheels report usage over the network unless they are told not to before they are loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

__all__ = ["VERSION", "Fault", "RunFailed", "Stop", "classify_error", "clean_message", "onnxruntime"]

# What goes wrong is raised and reported by us, once; the runtime's own log would repeat it on stderr.
onnxruntime.set_default_logger_severity(4)

VERSION: Final[str] = onnxruntime.__version__
Fault = Literal["input", "memory", "device", "stopped"]

_OUT_OF_MEMORY: Final = re.compile(r"failed to allocate|bad.?alloc|out of memory|alloc_failed", re.IGNORECASE)

# After one of these a CUDA context is of no use any more, nor is the process that holds it.
_DEVICE_LOST: Final = re.compile(
    r"cuda (failure|error)|cudaError|CUDNN_STATUS|CUBLAS_STATUS|device-side assert", re.IGNORECASE
)
_TOO_NEW: Final = re.compile(r"official support for domain (\S+) is till opset (\d+)")
_TOO_OLD: Final = re.compile(r"Could not find an implementation for (\w+)\((\d+)\)")
_NO_OPERATOR: Final = re.compile(r"No Op registered for (\w+)")
_GPU_SAYS: Final = re.compile(r"(CUDA|CUDNN|CUBLAS) failure \d+: [^;]+")
_STOPPED: Final = re.compile(r"terminate flag", re.IGNORECASE)


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

    @property
    def is_set(self) -> bool:
        """Whether they are to end: for an engine of one's own to look at between its steps."""
        return bool(self.options.terminate)


def classify_error(error: Exception) -> Fault:
    """Tell whose fault a failed run is, by what the runtime says of it."""
    text = str(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):  # first: CUDA's "out of memory" leaves it usable
        return "memory"
    if _DEVICE_LOST.search(text):
        return "device"
    return "stopped" if _STOPPED.search(text) else "input"


def clean_message(error: Exception) -> str:
    """The runtime's message on one line, without its prefixes."""
    if newer := _TOO_NEW.search(str(error)):
        domain, newest = newer.groups()
        return f"its opset of {domain} is newer than ONNX Runtime {VERSION} knows; allowed: up to {newest}"
    if unknown := _NO_OPERATOR.search(str(error)):
        return f"the operator {unknown[1]} is unknown to ONNX Runtime {VERSION}; allowed: those of ONNX"
    text = re.sub(
        r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?", "", " ".join(str(error).split())
    )
    if old := _TOO_OLD.search(text):
        operator, opset = old.groups()
        return f"it has no {operator} as of opset {opset} any more; allowed: the model, exported for a newer opset"
    if refused := _GPU_SAYS.search(text):
        return refused[0].strip()  # and not where in whose sources
    text = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z])", "", text)  # where in its sources
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-190:]}"
