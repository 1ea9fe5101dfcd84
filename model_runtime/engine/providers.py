"""What may run a model: the providers, what a machine lacks for each, and what ONNX Runtime is asked for, as data.

Opens nothing but shared libraries, to see that they load; knows no session. docs/decisions/0033
"""

import ctypes
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, NamedTuple

from model_runtime.engine.device_info import DriverInfo
from model_runtime.spec.gpu import Precision
from model_runtime.tensor_spec import TensorSpec

Provider = Literal["cpu", "cuda", "tensorrt"]
ProviderOptions = list[str | tuple[str, dict[str, str]]]

PROVIDER_NAMES: Final[dict[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_CUDA_PACKAGE: Final = 'pip install "onnxruntime-gpu[cuda,cudnn]", as the extra gpu does'
# TensorRT's libraries of this very version, and the package that has them; 11 has others.
_TENSORRT_LIBRARIES: Final = ("libnvinfer.so.10", "libnvonnxparser.so.10")
_TENSORRT_PACKAGE: Final = 'pip install "tensorrt-cu13>=10.13,<11", as the extra tensorrt does'


class GpuOptions(NamedTuple):
    """How a GPU is to be used; a CPU asks for none of it.

    `device`: its number, as CUDA counts. `cache`: a folder for what TensorRT builds, None where it is built each time.
    `largest`: the most rows of a batch, which TensorRT builds for; `precision`: what it may compute in.
    `graphs`: whether CUDA records the runs of a prepared batch size, to send them off as one.
    """

    device: int = 0
    cache: Path | None = None
    largest: int = 64
    precision: Precision = "fp32"
    graphs: bool = True


def provider_options(
    provider: str, gpu: GpuOptions, inputs: Sequence[TensorSpec] = (), engines: Path | None = None
) -> ProviderOptions:
    """What ONNX Runtime is asked for, first choice first.

    `inputs`: those with a free batch dimension, of one row; `engines`: where TensorRT's lie.
    """
    if provider == "cpu":
        return [PROVIDER_NAMES["cpu"]]
    # With TensorRT in front, what is left for CUDA is a few nodes in pieces: no graph can hold it.
    after: ProviderOptions = [
        (PROVIDER_NAMES["cuda"], cuda_options(gpu._replace(graphs=gpu.graphs and provider == "cuda"))),
        PROVIDER_NAMES["cpu"],
    ]
    return (
        after if provider == "cuda" else [(PROVIDER_NAMES["tensorrt"], tensorrt_options(gpu, inputs, engines)), *after]
    )


def cuda_options(gpu: GpuOptions) -> dict[str, str]:
    """CUDA's options."""
    return {
        "device_id": str(gpu.device),
        "cudnn_conv_algo_search": "HEURISTIC",  # the default, EXHAUSTIVE, tunes anew for every batch size that comes by
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles what it takes: there are other models
        **({"enable_cuda_graph": "1"} if gpu.graphs else {}),
    }


def tensorrt_options(gpu: GpuOptions, inputs: Sequence[TensorSpec], engines: Path | None) -> dict[str, str]:
    """TensorRT's options. One profile holds every batch size, so that all is built when the model is opened."""
    flags = {"fp16": ["trt_fp16_enable"], "int8": ["trt_fp16_enable", "trt_int8_enable"]}.get(gpu.precision, [])
    kept = {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(engines),
    }
    return {
        "device_id": str(gpu.device),
        **dict.fromkeys(flags, "True"),
        **(kept if engines else {}),
        # The most rows are also what it is tuned for: a small batch is short anyhow, a full one is what load makes.
        **(_profile(inputs, gpu.largest) if inputs else {}),
    }


def _profile(inputs: Sequence[TensorSpec], largest: int) -> dict[str, str]:
    rows = {"min": 1, "opt": largest, "max": largest}
    return {f"trt_profile_{which}_shapes": _shapes(inputs, count) for which, count in rows.items()}


def _shapes(inputs: Sequence[TensorSpec], rows: int) -> str:
    return ",".join(f"{tensor_spec.name}:{'x'.join(map(str, (rows, *tensor_spec.shape)))}" for tensor_spec in inputs)


def missing_requirements(provider: str, gpu: int, driver: DriverInfo, built_in: Sequence[str]) -> str:
    """What this machine lacks for the provider, as far as can be told before it is loaded; empty where nothing.

    `built_in`: the providers that the installed runtime names, which says only that they were compiled.
    """
    if provider == "cpu":
        return ""
    found = []
    if PROVIDER_NAMES[provider] not in built_in:
        found.append(
            f"the installed onnxruntime has no {PROVIDER_NAMES[provider]} ({_CUDA_PACKAGE}, in place of onnxruntime)"
        )
    if driver.problem:
        found.append(driver.problem)
    elif gpu >= driver.gpus:
        found.append(f"there is no GPU {gpu}; allowed: 0 to {driver.gpus - 1}")
    elif driver.cuda // 1000 < (needed := _cuda_needed()):
        has = f"{driver.cuda // 1000}.{driver.cuda % 1000 // 10}"
        found.append(f"the NVIDIA driver runs CUDA {has}, this onnxruntime needs {needed}: a newer driver is needed")
    return " and ".join(found)


def _cuda_needed() -> int:
    """The CUDA that the installed wheel is built for; a driver runs what was built for its own or an older one."""
    try:
        built = import_module("onnxruntime.capi.build_and_package_info")
        return int(str(built.cuda_version).partition(".")[0])
    except (ImportError, AttributeError, ValueError):  # a wheel without CUDA
        return 0


def provider_load_error(provider: str, capi: Path) -> str:
    """Why a provider did not come up: the loader's own words on its library in `capi`, which the runtime keeps back.

    Only after the runtime has tried: a provider that is loaded before its host has told it where it is crashes later.
    """
    try:
        ctypes.CDLL(str(capi / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(capi / f"libonnxruntime_providers_{provider}.so"))
    except OSError as error:
        return f"a library does not load: {error} ({_TENSORRT_PACKAGE if 'libnv' in str(error) else _CUDA_PACKAGE})"
    return "ONNX Runtime does not say why"


def load_tensorrt() -> str:
    """Load its libraries from their package, where the loader does not look by itself; says what is missing."""
    found = find_spec("tensorrt_libs")
    folder = Path(found.origin).parent if found and found.origin else None
    try:
        for name in _TENSORRT_LIBRARIES:
            packed = folder / name if folder else None
            ctypes.CDLL(str(packed) if packed and packed.exists() else name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"TensorRT 10 does not load: {error} ({_TENSORRT_PACKAGE})"
    return ""


def tensorrt_version() -> str:
    """Of the loaded libraries, as 101601; empty without them."""
    try:
        return str(ctypes.CDLL(_TENSORRT_LIBRARIES[0]).getInferLibVersion())
    except (OSError, AttributeError):
        return ""
