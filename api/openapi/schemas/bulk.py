"""Schemas of bulk jobs in OpenAI's form: files and batches."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from api.openapi.schemas.bodies import Binary, RequestBody, ResponseBody
from api.openapi.schemas.webhooks import WebhookHeaders, WebhookUrl
from api.routes.bulk import batches
from jobs.bulk.input_lines import URLS
from jobs.bulk.records import FINAL, TIMES, Status

Seconds = Annotated[int, Field(description="Seconds since 1970.")]
MetadataKey = Annotated[str, StringConstraints(max_length=batches.MAX_METADATA_KEY)]
MetadataValue = Annotated[str, StringConstraints(max_length=batches.MAX_METADATA_VALUE)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=batches.MAX_METADATA)]
BatchEndpoint = Annotated[str, Field(json_schema_extra={"enum": list(URLS)})]
_FILE_ID, _BATCH_ID = "file-00a1b2c3d4e5f60718293a4b5c", "batch_00a1b2c3d4e5f60718293a4b5c"


class FileForm(RequestBody):
    """A file to upload."""

    file: Binary
    purpose: Literal["batch"]
    expires_after_anchor: Literal["created_at"] | None = Field(None, alias="expires_after[anchor]")
    expires_after_seconds: Annotated[int, Field(ge=1)] | None = Field(None, alias="expires_after[seconds]")

    example: ClassVar[dict[str, Any]] = {"file": "the bytes of a file of JSON lines", "purpose": "batch"}


class File(ResponseBody):
    """The record of a file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: Seconds
    expires_at: Seconds | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]
    status_details: str | None

    example: ClassVar[dict[str, Any]] = {
        "id": _FILE_ID,
        "object": "file",
        "bytes": 1048576,
        "created_at": 1769851800,
        "expires_at": 1772443800,
        "filename": "lines.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }


class FileList(ResponseBody):
    """A page of files."""

    object: Literal["list"]
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool

    example: ClassVar[dict[str, Any]] = {
        "object": "list",
        "data": [File.example],
        "first_id": _FILE_ID,
        "last_id": _FILE_ID,
        "has_more": False,
    }


class DeletedFile(ResponseBody):
    """A file that was deleted."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]

    example: ClassVar[dict[str, Any]] = {"id": _FILE_ID, "object": "file", "deleted": True}


class OutputExpiry(RequestBody):
    """How long the files with the results are kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=1)]


class BatchReceiver(RequestBody):
    """A receiver of the notification of a batch's end, and headers for it."""

    url: WebhookUrl
    headers: WebhookHeaders = Field(default_factory=dict)


class BatchRequest(RequestBody):
    """A batch to create. It needs `input_file_id` or `retry_of`."""

    input_file_id: str | None = None
    endpoint: BatchEndpoint = URLS[0]
    completion_window: Annotated[str, StringConstraints(pattern=rf"^{batches.WINDOW.pattern}$")] = "24h"
    """A duration such as `24h`, `90m` or `600s`."""
    metadata: Metadata | None = None
    output_expires_after: OutputExpiry | None = None
    webhook: WebhookUrl | BatchReceiver | None = None
    retry_of: str | None = None
    """The id of a batch whose failed lines are to run again."""

    example: ClassVar[dict[str, Any]] = {
        "input_file_id": _FILE_ID,
        "endpoint": "/v1/jobs",
        "completion_window": "24h",
        "metadata": {"run": "17"},
    }


class LineError(ResponseBody):
    """Why a batch failed."""

    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(ResponseBody):
    """Why a batch failed."""

    data: list[LineError]
    object: Literal["list"] | None = None


class RequestCounts(ResponseBody):
    """The number of lines."""

    total: int
    completed: int
    failed: int


class Batch(ResponseBody):
    """A batch: the lines of a file that run as jobs."""

    id: str
    object: Literal["batch"]
    endpoint: BatchEndpoint
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: Seconds
    expires_at: Seconds | None
    in_progress_at: Seconds | None
    finalizing_at: Seconds | None
    completed_at: Seconds | None
    failed_at: Seconds | None
    expired_at: Seconds | None
    cancelling_at: Seconds | None
    cancelled_at: Seconds | None
    request_counts: RequestCounts
    usage: dict[str, Any] | None
    metadata: Metadata
    retry_of: str | None = None
    stalled: str | None = None
    """Why the batch cannot make progress at present."""

    example: ClassVar[dict[str, Any]] = {
        "id": _BATCH_ID,
        "object": "batch",
        "endpoint": "/v1/jobs",
        "model": None,
        "errors": None,
        "input_file_id": _FILE_ID,
        "completion_window": "24h",
        "status": "in_progress",
        "output_file_id": "file-00ffeeddccbbaa998877665544",
        "error_file_id": None,
        "created_at": 1769851800,
        "expires_at": 1769938200,
        "in_progress_at": 1769851801,
        **{f"{status}_at": None for status in TIMES if status != "in_progress"},
        "request_counts": {"total": 1000, "completed": 250, "failed": 0},
        "usage": None,
        "metadata": {"run": "17"},
    }


class BatchList(ResponseBody):
    """A page of batches."""

    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool

    example: ClassVar[dict[str, Any]] = {
        "object": "list",
        "data": [Batch.example],
        "first_id": _BATCH_ID,
        "last_id": _BATCH_ID,
        "has_more": False,
    }


class BatchNotification(ResponseBody):
    """What the receiver of a batch's webhook gets when it ends."""

    type: Annotated[str, Field(json_schema_extra={"enum": [f"batch.{status}" for status in sorted(FINAL)]})]
    timestamp: datetime
    data: Batch

    example: ClassVar[dict[str, Any]] = {
        "type": "batch.completed",
        "timestamp": "2026-01-31T10:30:00.000Z",
        "data": {**Batch.example, "status": "completed", "completed_at": 1769855400},
    }
