"""Schemas of the checks of a gateway: alive, ready, and ready for one model."""

from typing import Any, ClassVar, Literal

from api.openapi.schemas.bodies import ResponseBody


class Liveness(ResponseBody):
    """The process and its event loop run."""

    status: Literal["ok"]

    example: ClassVar[dict[str, Any]] = {"status": "ok"}


class DifferingValue(ResponseBody):
    """A value of a setting, or the fingerprint of model files, and the processes that have it."""

    value: str
    processes: list[str]
    served: bool | None = None


class DifferenceWarning(ResponseBody):
    """Processes that should agree differ."""

    code: str
    what: str
    message: str
    values: list[DifferingValue]


class QueueSafety(ResponseBody):
    """Whether Redis stores data durably. Null: not known yet."""

    safe: bool | None
    warnings: list[Any]


class Readiness(ResponseBody):
    """Whether the gateway accepts jobs, and the models that are served."""

    status: Literal["ready", "unready", "draining"]
    reason: str | None = None
    """Why it is not ready, or why no model is served."""
    workers: int | None = None
    """The number of live workers."""
    models: dict[str, str]
    """The status of each model."""
    refusing: str | None = None
    """Why new jobs are refused at present."""
    paused: list[str] | None = None
    """The paused queues, each as model and lane. A gateway with paused queues is ready."""
    output_bytes: int | None = None
    """Bytes of the large outputs that are kept."""
    warnings: list[DifferenceWarning]
    queue: QueueSafety

    example: ClassVar[dict[str, Any]] = {
        "status": "ready",
        "workers": 1,
        "models": {"digits": "ready"},
        "output_bytes": 0,
        "warnings": [],
        "queue": {"safe": True, "warnings": []},
    }


class ModelReadiness(ResponseBody):
    """Whether a live worker takes new jobs of a model."""

    status: Literal["ready", "unready"]
    model: str
    versions: dict[str, int] | None = None
    """The number of workers by version."""
    reason: str | None = None

    example: ClassVar[dict[str, Any]] = {"status": "ready", "model": "digits", "versions": {"1": 1}}
