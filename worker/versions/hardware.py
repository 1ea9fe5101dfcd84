"""What a worker has for its models, by its settings."""

from pydantic import ValidationError

from model_runtime.engine.open_engine import Hardware
from model_runtime.spec.model_toml import ModelError
from worker.settings import WorkerSettings


def hardware_of(settings: WorkerSettings) -> Hardware:
    """Give the GPU, where what is built for it is kept, and the CPUs."""
    return Hardware(settings.gpu_device, settings.tensorrt_cache_dir, int(settings.cpus))


def hardware_from_environment() -> Hardware:
    """Give what a worker would have if it were started here; raises ModelError where no worker would start."""
    try:
        return hardware_of(WorkerSettings())
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ModelError(f"{str(wrong['loc'][0]).upper()}={wrong['input']}", None, wrong["msg"]) from error
