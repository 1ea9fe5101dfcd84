"""What a worker has for its models, by its settings."""

from worker.models.engines import Hardware
from worker.settings import WorkerSettings


def hardware(settings: WorkerSettings) -> Hardware:
    """Give the GPU, and where what is built for it is kept."""
    return Hardware(settings.gpu_device, settings.engine_cache)
