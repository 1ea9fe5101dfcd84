"""Schemas of queues and workers, and of requests to pause, resume and purge them."""

from datetime import datetime
from typing import Any, ClassVar, Literal

from api.openapi.schemas.bodies import RequestBody, ResponseBody
from api.openapi.schemas.jobs import JOB_ID
from api.openapi.schemas.model_versions import VersionNumber
from jobs.contract.job import Lane
from jobs.models.pauses import SubmitRule


class Pause(ResponseBody):
    """A pause of a queue or a worker."""

    submits: SubmitRule
    """Whether new jobs are accepted meanwhile. A pause of a worker has no influence on them."""
    since: datetime
    by: str | None
    """The id of the API key that asked for it. Null: it was asked without a key."""


class Queue(ResponseBody):
    """The jobs of a model version in one lane."""

    model: str
    version: str
    lane: Lane | Literal["suspect"]
    """`suspect` has jobs of both lanes that wait for an isolated run."""
    waiting: int
    """The number of jobs in the queue."""
    oldest_at: datetime | None
    """When the oldest of them was accepted. Null: none waits."""
    oldest_seconds: float | None
    running: int
    paused: Pause | None


class QueueModel(ResponseBody):
    """The open jobs of a model, by the rows and bytes of their inputs."""

    model: str
    open_rows: int
    """Rows of the jobs that wait or run."""
    open_bytes: int
    running_rows: int
    waiting_rows: int


class QueueList(ResponseBody):
    """The queues of all models, or of one."""

    queues: list[Queue]
    models: list[QueueModel]

    example: ClassVar[dict[str, Any]] = {
        "queues": [
            {
                "model": "digits",
                "version": "1",
                "lane": "interactive",
                "waiting": 12,
                "oldest_at": "2026-01-31T09:30:00.000Z",
                "oldest_seconds": 0.812,
                "running": 32,
                "paused": {"submits": "accept", "since": "2026-01-31T09:29:00.000Z", "by": "0f3a9c1be5d27846"},
            }
        ],
        "models": [{"model": "digits", "open_rows": 44, "open_bytes": 13728, "running_rows": 32, "waiting_rows": 12}],
    }


class PauseRequest(RequestBody):
    """What to pause. Without a lane: both."""

    lane: Lane | None = None
    submits: SubmitRule | None = None
    """Whether new jobs are accepted meanwhile (the default) or refused."""

    example: ClassVar[dict[str, Any]] = {"lane": "bulk", "submits": "refuse"}


class ResumeRequest(RequestBody):
    """What to resume. Without a lane: both."""

    lane: Lane | None = None

    example: ClassVar[dict[str, Any]] = {"lane": "bulk"}


class PurgeRequest(RequestBody):
    """Which jobs to cancel. Without a lane or a version: those of all."""

    confirm: str
    """The name of the model once more."""
    lane: Lane | None = None
    version: VersionNumber | None = None
    cursor: str | None = None
    """`next_cursor` of an earlier response."""

    example: ClassVar[dict[str, Any]] = {"confirm": "digits", "lane": "bulk"}


class PurgedQueue(ResponseBody):
    """The number of jobs that were canceled."""

    canceled: int
    more: bool
    """True: call again with `next_cursor`."""
    next_cursor: str | None

    example: ClassVar[dict[str, Any]] = {"canceled": 50000, "more": True, "next_cursor": f"1769851800000000-{JOB_ID}"}


class WorkerModel(ResponseBody):
    """A model version that a worker serves."""

    name: str
    version: str
    device: str | None
    running: int
    """The number of jobs that the worker has claimed, as of its last heartbeat."""
    leaving: bool
    """True: it is unloaded once its queue is empty."""


class Worker(ResponseBody):
    """A live worker, as of its last heartbeat."""

    id: str
    host: str
    pid: int
    status: Literal["serving", "pausing", "paused", "resuming"]
    paused: Pause | None
    started_at: datetime | None
    heartbeat_age_seconds: float | None
    lease_seconds: float
    memory_bytes: int | None
    """The resident memory of the process. Null: unknown."""
    models: list[WorkerModel]
    loading: list[str]
    """Versions that it loads, each as name and number."""
    failed: dict[str, str]
    """Why models or versions cannot be loaded."""

    example: ClassVar[dict[str, Any]] = {
        "id": "5b0c7d1f00e2a9c4",
        "host": "gpu-1",
        "pid": 4711,
        "status": "serving",
        "paused": None,
        "started_at": "2026-01-31T09:00:00.000Z",
        "heartbeat_age_seconds": 1.204,
        "lease_seconds": 20.0,
        "memory_bytes": 214958080,
        "models": [{"name": "digits", "version": "1", "device": "CPU", "running": 32, "leaving": False}],
        "loading": [],
        "failed": {},
    }


class WorkerList(ResponseBody):
    """The live workers."""

    workers: list[Worker]

    example: ClassVar[dict[str, Any]] = {"workers": [Worker.example]}
