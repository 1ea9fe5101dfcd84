"""Open the engine of a model: ONNX Runtime with the version's `model.onnx`, or a custom engine."""

from pathlib import Path
from typing import Final, NamedTuple

from model_runtime.engine.custom_engine import CustomEngineAdapter
from model_runtime.engine.onnx_engine import OnnxEngine
from model_runtime.engine.providers import GpuOptions
from model_runtime.profiling.batch_cap import MAX_MEASURED_BATCH
from model_runtime.repository.path_checks import check_file, check_folder
from model_runtime.repository.repository import ModelFolder
from model_runtime.spec.model_toml import SPEC_FILE, ModelError, ModelSpec
from model_runtime.spec.tensors import TensorKeys

AnyEngine = OnnxEngine | CustomEngineAdapter

QUICK_CHECK_ROWS: Final = 3  # run for the consistency check of every model at load


class Hardware(NamedTuple):
    """Hardware of a worker: number of its GPU, folder of the TensorRT engine cache, number of CPUs (0 = all)."""

    gpu: int = 0
    engine_cache: Path | None = None
    cpus: int = 0


def open_engine(folder: ModelFolder, hardware: Hardware | None = None, provider: str = "auto") -> AnyEngine:
    """Open and test the engine. `provider`, unless "auto", overrides that of model.toml. Raises ModelError."""
    hardware, spec = hardware or Hardware(), folder.spec
    if spec.engine is not None:
        check_file(folder.path, folder.path / SPEC_FILE)
        if spec.batch_axis is not None or spec.inputs or spec.outputs:
            reason = "a custom engine has rows first and states its own tensors; allowed: only with ONNX Runtime"
            raise ModelError(folder.path / SPEC_FILE, "batch_axis, inputs, outputs", reason)
        return CustomEngineAdapter(folder.path, folder.onnx.parent, spec, hardware.gpu)
    check_folder(folder.path, folder.onnx)
    requested = spec.provider if provider == "auto" else provider
    options = gpu_options(spec, hardware)
    return OnnxEngine(folder.onnx, requested, spec.threads or hardware.cpus, options, tensor_keys(folder))


def tensor_keys(folder: ModelFolder) -> TensorKeys:
    """Return the keys of model.toml that say where the batch is, and what is answered."""
    spec = folder.spec
    return TensorKeys(str(folder.path / SPEC_FILE), spec.batch_axis, spec.inputs, spec.outputs)


def gpu_options(spec: ModelSpec, hardware: Hardware) -> GpuOptions:
    """Return the GPU options for a model."""
    largest = max(spec.max_batch or MAX_MEASURED_BATCH, QUICK_CHECK_ROWS)
    return GpuOptions(hardware.gpu, hardware.engine_cache, largest, spec.tensorrt.precision, spec.cuda.graphs)
