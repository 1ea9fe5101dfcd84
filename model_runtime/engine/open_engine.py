"""Finds what runs a model: ONNX Runtime on the version's `model.onnx`, or the engine that `model.toml` names."""

from pathlib import Path
from typing import Final, NamedTuple

from model_runtime.engine.custom_engine import CustomEngineAdapter
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.engine.providers import GpuOptions
from model_runtime.profiling.batch_cap import MAX_MEASURED_BATCH
from model_runtime.repository.path_checks import check_file, check_folder
from model_runtime.repository.repository import ModelFolder
from model_runtime.spec.model_toml import SPEC_FILE, ModelSpec

AnyEngine = OnnxEngine | CustomEngineAdapter

QUICK_CHECK_ROWS: Final = 3  # are run of every model before it serves


class Hardware(NamedTuple):
    """What a worker has for its models: the number of its GPU, where what TensorRT builds is kept, CPUs (0 = all)."""

    gpu: int = 0
    engine_cache: Path | None = None
    cpus: int = 0


def open_engine(folder: ModelFolder, hardware: Hardware | None = None, provider: str = "auto") -> AnyEngine:
    """Opens and tries it; raises ModelError. `provider`: overrules what model.toml says, unless it is auto."""
    hardware, spec = hardware or Hardware(), folder.spec
    if spec.engine is not None:
        check_file(folder.path, folder.path / SPEC_FILE)
        return CustomEngineAdapter(folder.path, folder.onnx.parent, spec, hardware.gpu)
    check_folder(folder.path, folder.onnx)
    requested = spec.provider if provider == "auto" else provider
    return OnnxEngine(folder.onnx, requested, spec.threads or hardware.cpus, gpu_options(spec, hardware))


def gpu_options(spec: ModelSpec, hardware: Hardware) -> GpuOptions:
    """How a GPU is to be used for the model."""
    largest = max(spec.max_batch or MAX_MEASURED_BATCH, QUICK_CHECK_ROWS)
    return GpuOptions(hardware.gpu, hardware.engine_cache, largest, spec.tensorrt.precision, spec.cuda.graphs)
