"""Settings of a worker, read from the environment."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from jobs.config.logs import LogFormat, LogLevel
from jobs.config.settings_base import SETTINGS_CONFIG, Settings
from model_runtime.cpus import Cpus, read_cpus, usable_cpus


def _default_decode_threads(data: dict[str, Any]) -> int:
    return int(data.get("cpus", 1))


class WorkerSettings(Settings):
    """Settings of one worker process."""

    model_config = SETTINGS_CONFIG

    models_dir: Path = Field(Path("models"), description="folder of models")
    serve_models: str = Field("", description="comma-separated names of the models to serve; empty = all")
    models_poll_s: float = Field(
        2,
        ge=0,
        description="seconds between polls of the models folder; 0 = changes take effect on an admin request only",
    )
    unload_after_s: float = Field(
        10, gt=0, description="keep an unwanted version loaded this long, so that every gateway sees the change"
    )
    cpus: Annotated[Cpus, PlainValidator(read_cpus)] = Field(
        default_factory=lambda: Cpus(usable_cpus()),
        description="CPUs for runs and decoding: a number, or a list such as 8-15 or 0,2-3",
    )
    decode_threads: int = Field(
        default_factory=_default_decode_threads,
        ge=1,
        le=1024,
        description="threads that preprocess inputs and run custom tasks, for one tenant; one more is kept for others",
    )
    max_concurrent_runs: int = Field(
        1, ge=1, le=64, description="runs of different models side by side, on a CPU; each gets its share of the CPUs"
    )
    separate_long_runs: bool = Field(
        default=True,
        description="with several workers: some claim the long runs and the others the short ones, while both arrive",
    )
    gpu_device: int = Field(0, ge=0, le=1023, description="CUDA device number of the worker's GPU")
    tensorrt_cache_dir: Path = Field(
        Path(".data/engines"), description="folder for TensorRT engines, which take minutes to build"
    )
    heartbeat_s: float = Field(
        5, gt=0, description="interval of lease renewals and registrations; at most a quarter of JITNEY_LEASE_S"
    )
    metrics_flush_s: float = Field(1, gt=0, description="interval of metrics updates")
    idle_poll_s: float = Field(1, gt=0, description="interval of an idle worker's polls for work, in addition to wakes")
    drain_s: float = Field(3, gt=0, description="on SIGTERM: time to finish the claimed jobs")
    run_stop_timeout_s: float = Field(
        10,
        gt=0,
        description="a run that goes on this long after its stop, or after a short time was expected, ends its worker",
    )
    log_level: LogLevel = Field("info", description="debug, info, warning or error")
    log_format: LogFormat = Field("text", description="text or json: one line, or one JSON object, a message")

    @property
    def chosen(self) -> list[str]:
        return [name.strip() for name in self.serve_models.split(",") if name.strip()]
