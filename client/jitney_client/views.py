"""What the service says of a job, a batch, an event and a result, as values without a connection."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from jitney_client.errors import JobCanceled, JobExpired, JobFailed

FINAL: Final = frozenset({"succeeded", "failed", "canceled", "expired"})
FINAL_BATCH: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_FAILURES: Final = {"canceled": JobCanceled, "expired": JobExpired}


class JobView:
    """A job as it was when it was last read. `data` has all fields of the HTTP API."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    @property
    def id(self) -> str:
        return str(self.data["id"])

    @property
    def model(self) -> str:
        return str(self.data["model"])

    @property
    def status(self) -> str:
        """`queued`, `running`, `succeeded`, `failed`, `canceled` or `expired`."""
        return str(self.data["status"])

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def output(self) -> Any:
        """The output, or None unless the job has succeeded."""
        return self.data.get("output")

    @property
    def error(self) -> dict[str, Any] | None:
        """`code`, `message` and `status` of a job that ended without output."""
        error: dict[str, Any] | None = self.data.get("error")
        return error

    @property
    def metadata(self) -> dict[str, str]:
        metadata: dict[str, str] = self.data["metadata"]
        return metadata

    @property
    def timings(self) -> dict[str, float | None]:
        """Times in ms: `queue`, `decode`, `batch`, `infer`, `total`."""
        timings: dict[str, float | None] = self.data["timings"]
        return timings

    @property
    def created_at(self) -> datetime:
        return datetime.fromisoformat(self.data["created_at"])

    @property
    def failure(self) -> JobFailed | None:
        """The error to raise for a job that ended without output; None for others."""
        if not self.is_final or self.status == "succeeded":
            return None
        return _FAILURES.get(self.status, JobFailed)(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"


class BatchView:
    """A batch as it was when it was last read. `data` has all fields of the HTTP API."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    @property
    def id(self) -> str:
        return str(self.data["id"])

    @property
    def status(self) -> str:
        """`validating`, `in_progress`, `completed`, `cancelling`, `cancelled`, `expired` or `failed`."""
        return str(self.data["status"])

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_BATCH

    @property
    def counts(self) -> dict[str, int]:
        """The number of lines: `total`, `completed`, `failed`."""
        counts: dict[str, int] = self.data["request_counts"]
        return counts

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Why the batch failed: `code`, `message` and `line` of the first lines that are wrong."""
        errors: list[dict[str, Any]] = (self.data.get("errors") or {}).get("data", [])
        return errors

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"


class Event(NamedTuple):
    """A server-sent event. `name` is the state that a job has reached, or `lost` if events may be missing."""

    id: str
    name: str
    data: dict[str, Any]


@dataclass(frozen=True)
class MapResult:
    """What became of one input of `map`. `error` is None if it succeeded. `job` is None if it was refused."""

    index: int
    output: Any
    error: Exception | None
    job: JobView | None


@dataclass(frozen=True)
class BatchResult:
    """What became of one line of a batch. `error` has `code` and `message`, and is None if the line succeeded."""

    custom_id: str | None
    output: Any
    error: dict[str, Any] | None


def read_batch_line(line: Mapping[str, Any]) -> BatchResult:
    """Decode a line of the output or the error file of a batch."""
    body = (line.get("response") or {}).get("body") or {}
    return BatchResult(line["custom_id"], body.get("output"), line.get("error"))
