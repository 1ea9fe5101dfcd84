"""Build the options of ONNX Runtime's execution providers, and find out what a machine lacks for each.

Loads shared libraries, but opens no session. docs/explanation/decisions/execution-providers.md
"""

import ctypes
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from model_runtime.engine.device_info import DriverInfo
from model_runtime.spec.model_toml import Precision
from model_runtime.tensor_spec import TensorSpec

ProviderOptions = list[str | tuple[str, dict[str, str]]]

PROVIDER_NAMES: Final[dict[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_CUDA_PACKAGE: Final = 'pip install "onnxruntime-gpu[cuda,cudnn]", as the extra gpu does'
# TensorRT 10 and the package that contains it; the libraries of TensorRT 11 have other names.
_TENSORRT_LIBRARIES: Final = ("libnvinfer.so.10", "libnvonnxparser.so.10")
_TENSORRT_PACKAGE: Final = 'pip install "tensorrt-cu13>=10.13,<11", as the extra tensorrt does'


class GpuOptions(NamedTuple):
    """Options for a GPU; ignored on a CPU.

    `device`: its CUDA number. `cache`: folder for TensorRT engines; None: build them at every start.
    `largest`: the largest batch, which TensorRT optimizes for; `precision`: the lowest that TensorRT may use.
    `graphs`: record the runs of a prepared batch size as CUDA graphs.
    """

    device: int = 0
    cache: Path | None = None
    largest: int = 64
    precision: Precision = "fp32"
    graphs: bool = True


def provider_options(
    provider: str, gpu: GpuOptions, inputs: Sequence[TensorSpec] = (), engines: Path | None = None
) -> ProviderOptions:
    """Return the providers and their options for ONNX Runtime, in order of preference.

    `inputs`: the inputs with a free batch dimension, as declared. `engines`: the folder of TensorRT engines.
    """
    if provider == "cpu":
        return [PROVIDER_NAMES["cpu"]]
    # After TensorRT only scattered nodes remain for CUDA, which cannot be one graph.
    fallbacks: ProviderOptions = [
        (PROVIDER_NAMES["cuda"], cuda_options(gpu._replace(graphs=gpu.graphs and provider == "cuda"))),
        PROVIDER_NAMES["cpu"],
    ]
    return (
        fallbacks
        if provider == "cuda"
        else [(PROVIDER_NAMES["tensorrt"], tensorrt_options(gpu, inputs, engines)), *fallbacks]
    )


def cuda_options(gpu: GpuOptions) -> dict[str, str]:
    """Return the options of the CUDA provider."""
    return {
        "device_id": str(gpu.device),
        "cudnn_conv_algo_search": "HEURISTIC",  # the default, EXHAUSTIVE, tunes again for every new batch size
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles allocations, at the cost of other models
        **({"enable_cuda_graph": "1"} if gpu.graphs else {}),
    }


def tensorrt_options(gpu: GpuOptions, inputs: Sequence[TensorSpec], engines: Path | None) -> dict[str, str]:
    """Return the options of the TensorRT provider. One profile covers all batch sizes, so one build suffices."""
    flags = {"fp16": ["trt_fp16_enable"], "int8": ["trt_fp16_enable", "trt_int8_enable"]}.get(gpu.precision, [])
    cache = {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(engines),
    }
    return {
        "device_id": str(gpu.device),
        **dict.fromkeys(flags, "True"),
        **(cache if engines else {}),
        # Optimized for the largest batch: small batches are short anyway, and load makes batches full.
        **(_profile(inputs, gpu.largest) if inputs else {}),
    }


def _profile(inputs: Sequence[TensorSpec], largest: int) -> dict[str, str]:
    rows = {"min": 1, "opt": largest, "max": largest}
    return {f"trt_profile_{bound}_shapes": _shapes(inputs, count) for bound, count in rows.items()}


def _shapes(inputs: Sequence[TensorSpec], rows: int) -> str:
    return ",".join(
        f"{tensor_spec.name}:{'x'.join(str(rows if side == -1 else side) for side in tensor_spec.shape)}"
        for tensor_spec in inputs
    )


def missing_requirements(provider: str, gpu: int, driver: DriverInfo, built_in: Sequence[str]) -> str:
    """Return what this machine lacks for the provider, as far as is known before loading it; empty if nothing.

    `built_in`: the providers compiled into the installed runtime.
    """
    if provider == "cpu":
        return ""
    problems = []
    if PROVIDER_NAMES[provider] not in built_in:
        problems.append(
            f"the installed onnxruntime has no {PROVIDER_NAMES[provider]} ({_CUDA_PACKAGE}, in place of onnxruntime)"
        )
    if driver.problem:
        problems.append(driver.problem)
    elif gpu >= driver.gpus:
        problems.append(f"there is no GPU {gpu}; allowed: 0 to {driver.gpus - 1}")
    elif driver.cuda // 1000 < (needed := _cuda_needed()):
        supported = f"{driver.cuda // 1000}.{driver.cuda % 1000 // 10}"
        problems.append(
            f"the NVIDIA driver supports CUDA {supported}, this onnxruntime needs {needed}: install a newer driver"
        )
    return " and ".join(problems)


def _cuda_needed() -> int:
    """Return the CUDA version of the installed wheel; a driver supports its own version and older ones."""
    try:
        built = import_module("onnxruntime.capi.build_and_package_info")
        return int(str(built.cuda_version).partition(".")[0])
    except (ImportError, AttributeError, ValueError):  # a wheel without CUDA
        return 0


def provider_load_error(provider: str, capi: Path) -> str:
    """Return the dynamic loader's message about a provider's library in `capi`, which the runtime does not report.

    Call it only after the runtime tried to load the provider: a provider loaded earlier crashes later.
    """
    try:
        ctypes.CDLL(str(capi / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(capi / f"libonnxruntime_providers_{provider}.so"))
    except OSError as error:
        return f"a library does not load: {error} ({_TENSORRT_PACKAGE if 'libnv' in str(error) else _CUDA_PACKAGE})"
    return "ONNX Runtime does not report why"


def load_tensorrt() -> str:
    """Load the TensorRT libraries, from their Python package if installed. Return what is missing, or ""."""
    package = find_spec("tensorrt_libs")
    folder = Path(package.origin).parent if package and package.origin else None
    try:
        for name in _TENSORRT_LIBRARIES:
            packaged = folder / name if folder else None
            ctypes.CDLL(str(packaged) if packaged and packaged.exists() else name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"TensorRT 10 does not load: {error} ({_TENSORRT_PACKAGE})"
    return ""


def tensorrt_version() -> str:
    """Return the version of the loaded libraries, such as 101601; empty without them."""
    try:
        return str(ctypes.CDLL(_TENSORRT_LIBRARIES[0]).getInferLibVersion())
    except (OSError, AttributeError):
        return ""
