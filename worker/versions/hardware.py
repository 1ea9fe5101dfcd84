"""Maps a worker's settings to the hardware that its models may use."""

from pydantic import ValidationError

from model_runtime.engine.open_engine import Hardware
from model_runtime.spec.model_toml import ModelError
from worker.settings import WorkerSettings


def hardware_of(settings: WorkerSettings) -> Hardware:
    """Return the GPU, the TensorRT cache folder and the number of CPUs of one run."""
    cpus = max(1, int(settings.cpus) // settings.max_concurrent_runs)
    return Hardware(settings.gpu_device, settings.tensorrt_cache_dir, cpus)


def hardware_from_environment() -> Hardware:
    """Return the hardware that a worker started here would use; raises ModelError if its settings are invalid."""
    try:
        return hardware_of(WorkerSettings())
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{str(first['loc'][0]).upper()}={first['input']}", None, first["msg"]) from error
