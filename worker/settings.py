"""What a worker needs to know, from the environment."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from jobs.config.settings_base import SETTINGS_CONFIG, Settings
from model_runtime.cpus import Cpus, read_cpus, usable_cpus


def _cpus(given: dict[str, Any]) -> int:
    return int(given.get("cpus", 1))


class WorkerSettings(Settings):
    """Settings of one worker process."""

    model_config = SETTINGS_CONFIG

    models_dir: Path = Field(Path("models"), description="folder of models")
    serve_models: str = Field("", description="names of the models to serve, with commas between; empty = all")
    models_poll_s: float = Field(
        2,
        ge=0,
        description="time between two looks at the folder of models; 0 = what is new counts once an admin asks",
    )
    unload_after_s: float = Field(
        10, gt=0, description="a version that is no longer wanted stays so long at least: no gateway must miss that"
    )
    cpus: Annotated[Cpus, PlainValidator(read_cpus)] = Field(
        default_factory=lambda: Cpus(usable_cpus()),
        description="CPUs this worker uses, for its runs and for decoding: a number, or a list such as 8-15 or 0,2-3",
    )
    decode_threads: int = Field(
        default_factory=_cpus,
        ge=1,
        le=1024,
        description="threads that prepare inputs and run users' own tasks, for one tenant; one more is kept for others",
    )
    gpu_device: int = Field(0, ge=0, le=1023, description="the number of the worker's GPU, as CUDA counts them")
    tensorrt_cache_dir: Path = Field(
        Path(".data/engines"), description="folder where TensorRT keeps what it has built, which takes minutes"
    )
    heartbeat_s: float = Field(
        5, gt=0, description="time between two renewals of leases and announcement; a quarter of JITNEY_LEASE_S at most"
    )
    metrics_flush_s: float = Field(1, gt=0, description="time between two additions to the metrics")
    idle_poll_s: float = Field(1, gt=0, description="an idle worker looks for work this often even without a wake")
    drain_s: float = Field(3, gt=0, description="on SIGTERM: longest time to finish what is aboard")
    run_stop_timeout_s: float = Field(
        10, gt=0, description="a run that was told to stop, or was to be short, and goes on for so long ends its worker"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")

    @property
    def chosen(self) -> list[str]:
        return [name.strip() for name in self.serve_models.split(",") if name.strip()]
