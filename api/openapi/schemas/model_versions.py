"""Schemas of models: their versions, rollout plans, and requests to change a plan."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints

from api.openapi.schemas.bodies import RequestBody, ResponseBody
from jobs.contract.job import Lane
from jobs.models.rollout_plan import RolloutPlan
from jobs.models.worker_registry import MODEL_VERSION

VersionNumber = Annotated[str, StringConstraints(pattern=rf"^{MODEL_VERSION.pattern}$")]


class TensorSpec(ResponseBody):
    """An input or output of a model."""

    name: str
    datatype: str
    shape: list[int | str | None]
    """Without the batch axis. A dimension that is not fixed is null or a name."""


class ModelColumn(ResponseBody):
    """A column of a model of the task `tabular`."""

    name: str
    datatype: str


class WaitingJobs(ResponseBody):
    """The number of queued jobs by lane, and of those that wait for an isolated run."""

    interactive: int
    bulk: int
    suspect: int


class ModelVersion(ResponseBody):
    """A version of a model: what its workers announced, and its status.

    A worker of another release may announce other fields. A version that no worker has loaded has few.
    """

    model_config = ConfigDict(extra="allow")

    name: str
    version: str | None
    """Null: the model's folder cannot be read."""
    status: Literal["ready", "leaving", "loading", "failed", "available", "unserved"]
    reason: str | None
    """Why it is not healthy."""
    workers: int
    """The number of live workers that serve it."""
    kinds: list[str]
    """The kinds of input that it takes."""
    role: Literal["canary", "stable", "before", "kept"] | None = None
    share: float | None = None
    """Its share of the model's new jobs in percent."""
    waiting: WaitingJobs | None = None
    paused: list[Lane] | None = None
    """The lanes of the model that are paused."""
    ceilings: dict[str, int] | None = None
    """The largest batch that fits into memory, by input shapes, where workers met a limit."""
    task: str | None = None
    description: str | None = None
    input_fields: list[str] | None = None
    """The fields of `input` that it takes."""
    columns: list[ModelColumn] | None = None
    inputs: list[TensorSpec] | None = None
    outputs: list[TensorSpec] | None = None
    max_batch: int | None = None
    lengths: dict[str, Any] | None = None
    """How items of different lengths are batched. Null: its items have one shape."""
    from_file: list[str] | None = None
    """Settings that `model.toml` leaves out, and that the model's own files say."""
    max_rows: int | None = None
    """The most rows of a job. Null: it takes no rows."""
    max_output_bytes: int | None = None
    raw_bytes: int | None = None
    """The size of a body of `application/octet-stream`. Null: it takes none."""
    deadline_ms: int | None = None
    provider: str | None = None
    """The execution provider."""
    device: str | None = None

    example: ClassVar[dict[str, Any]] = {
        "name": "digits",
        "version": "1",
        "task": "image-classification",
        "kinds": ["image"],
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 28, 28]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [10]}],
        "max_batch": 32,
        "provider": "cpu",
        "status": "ready",
        "reason": None,
        "workers": 1,
        "waiting": {"interactive": 0, "bulk": 0, "suspect": 0},
        "paused": [],
        "role": "stable",
        "share": 100.0,
    }


class ModelList(ResponseBody):
    """All versions of all models."""

    models: list[ModelVersion]

    example: ClassVar[dict[str, Any]] = {"models": [ModelVersion.example]}


class ModelRollout(ResponseBody):
    """A model: its rollout plan and its versions."""

    name: str
    plan: RolloutPlan
    versions: list[ModelVersion]

    example: ClassVar[dict[str, Any]] = {
        "name": "digits",
        "plan": {"stable": "1", "pinned": True, "canary": "2", "percent": 10},
        "versions": [ModelVersion.example],
    }


class VersionRequest(RequestBody):
    """The version to change. Where it may be absent, the operation says what it then means."""

    version: VersionNumber | None = None

    example: ClassVar[dict[str, Any]] = {"version": "2"}


class ShareRequest(RequestBody):
    """The share of new jobs that a version gets."""

    version: VersionNumber
    percent: Annotated[int, Field(ge=0, le=100)]

    example: ClassVar[dict[str, Any]] = {"version": "2", "percent": 10}


class NoFields(RequestBody):
    """An empty object."""

    example: ClassVar[dict[str, Any]] = {}
