"""Schemas of jobs: requests, records, lists, and what `/predict` answers."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints

from api.auth.job_tokens import DEFAULT_TTL_S, MAX_TTL_S
from api.openapi.schemas.bodies import Binary, RequestBody, ResponseBody
from api.openapi.schemas.errors import JobError, RefusedJob
from api.openapi.schemas.webhooks import Webhook, WebhookEvent
from jobs.contract.input_fields import MAX_INPUT_TEXT_BYTES
from jobs.contract.job import LANES, Lane
from jobs.contract.job_request import MAX_METADATA, MAX_METADATA_TEXT
from jobs.contract.lifecycle import State
from jobs.contract.tensors import DATATYPES

Text = Annotated[str, StringConstraints(max_length=MAX_INPUT_TEXT_BYTES)]
Texts = Annotated[list[Text], Field(min_length=1)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
JOB_ID = "0013e2758e9abaf43ddddbb58a3255b83f"
_READ_TOKEN = "jt_1769852400_3f9c1b0a5d7e2468_9Qm0vX0V3m1c8oP1yTn2Jd7b5sKx4wZq6LrEuHgFaBc"  # noqa: S105 (made up)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class JobInput(RequestBody):
    """The input: one of the fields, or `query` with `documents`. Which ones a model takes, `/v1/models` says."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 2})

    image: str | None = None
    """An image in base64, or as a `data:` URL."""
    audio: str | None = None
    """An audio file in base64, or as a `data:` URL."""
    tensors: dict[str, "Tensor"] | None = None
    """Tensors by name, for models of the task `tensor`."""
    text: Text | None = None
    """A text, for models of the tasks for text."""
    bytes: str | None = None
    """Bytes in base64, or as a `data:` URL: the same as a body of `application/octet-stream`."""
    features: dict[str, Any] | None = None
    """Values by column, for models of the task `tabular`."""
    row: list[Any] | None = None
    """One value for each column, for models of the task `tabular`."""
    rows: Annotated[list[Any], Field(min_length=1)] | None = None
    """Several rows, each a list of values or an object of named values."""
    texts: Texts | None = None
    """Several texts, each a row."""
    tokens: TokenIds | list[TokenIds] | None = None
    """Token ids in place of a text, or a list of such lists, each a row."""
    query: Text | None = None
    """A query, beside `documents`, for models of the task `text-ranking`."""
    documents: Texts | None = None
    """Texts to rank by the query, each a row."""
    json_: Any = Field(None, alias="json", description="Any JSON value, for a custom task that takes JSON.")


class JobForm(RequestBody):
    """A job as a form: one of `image`, `audio` and `text`, and fields as text."""

    image: Binary | None = None
    """The image, as a file or not."""
    audio: Binary | None = None
    """The audio file, as a file or not."""
    text: Text | None = None
    """The text, in UTF-8."""
    model: str | None = None
    parameters: str | None = None
    """A JSON object."""
    lane: Lane | None = None
    deadline_ms: Annotated[int, Field(ge=1)] | None = None
    metadata: str | None = None
    """A JSON object of strings."""
    webhook: str | None = None
    """A URL, or a JSON object."""
    rows: Annotated[int, Field(ge=1)] | None = None

    example: ClassVar[dict[str, Any]] = {"text": "a text", "model": "language", "parameters": '{"top_k": 3}'}


class PredictForm(JobForm):
    """An image, audio or a text as a form, and fields as text."""

    example: ClassVar[dict[str, Any]] = {"image": "the bytes of an image file", "model": "digits"}


class Tensor(RequestBody):
    """A tensor: its values as `data`, or their little-endian bytes in base64 as `b64`."""

    datatype: Annotated[str, Field(json_schema_extra={"enum": sorted(DATATYPES)})]
    shape: list[Annotated[int, Field(ge=0)]]
    data: list[Any] | None = None
    """The values as one flat list, row by row, or nested as the shape says."""
    b64: str | None = None


class JobRequest(RequestBody):
    """A job to submit."""

    model: str = ""
    """The model. It may be absent if only one is served, or if there is a default model."""
    input: JobInput
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What the task of the model takes, such as `top_k`."""
    lane: Lane = LANES[0]
    """`bulk` jobs run when `interactive` jobs leave room."""
    deadline_ms: Annotated[int, Field(ge=1)] | None = None
    """The job ends as `expired` if it is not done so many ms after it was accepted."""
    metadata: Annotated[dict[str, str], Field(max_length=MAX_METADATA)] = Field(
        default_factory=dict, description=f"Given back as it is. A pair may have {MAX_METADATA_TEXT} characters."
    )
    webhook: Webhook | None = None
    """Who is notified when the job ends."""
    rows: Annotated[int, Field(ge=1)] | None = None
    """The number of rows, which is the first dimension of all tensors."""

    example: ClassVar[dict[str, Any]] = {
        "model": "digits",
        "input": {"image": PIXEL},
        "parameters": {"top_k": 1},
        "metadata": {"order": "17"},
    }


class Timings(ResponseBody):
    """The time of each stage in ms. Null: the stage has not ended."""

    queue: float | None
    """From acceptance to the last claim."""
    decode: float | None
    batch: float | None
    """From the claim to the run, without the decoding."""
    infer: float | None
    """The run of the micro-batch."""
    total: float | None
    """From acceptance to the end."""


class JobUrls(ResponseBody):
    """Paths of a job's routes."""

    self: str
    events: str
    cancel: str


class ListedJob(ResponseBody):
    """A job without its output. Read the job to get the output."""

    id: str
    model: str
    version: str
    status: State
    lane: Lane
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    error: JobError | None
    timings: Timings
    batch_size: int | None
    """The number of items in the largest micro-batch that the job was in."""
    position: int | None
    """The place in its queue, from 1, while it is queued."""
    eta_ms: float | None
    metadata: dict[str, str]
    urls: JobUrls


_JOB: dict[str, Any] = {
    "id": JOB_ID,
    "model": "digits",
    "version": "1",
    "status": "succeeded",
    "lane": "interactive",
    "created_at": "2026-01-31T09:30:00.000Z",
    "started_at": "2026-01-31T09:30:00.001Z",
    "finished_at": "2026-01-31T09:30:00.003Z",
    "attempts": 1,
    "output": {"predictions": [{"label": "7", "index": 7, "probability": 0.998}]},
    "error": None,
    "timings": {"queue": 0.4, "decode": 0.2, "batch": 0.1, "infer": 0.9, "total": 1.7},
    "batch_size": 12,
    "position": None,
    "eta_ms": None,
    "metadata": {"order": "17"},
    "urls": {
        "self": f"/v1/jobs/{JOB_ID}",
        "events": f"/v1/jobs/{JOB_ID}/events",
        "cancel": f"/v1/jobs/{JOB_ID}",
    },
}


class Job(ListedJob):
    """A job."""

    output: dict[str, Any] | None
    """What the task of the model returns. Null: there is none, or it is too large for this answer (`output_url`)."""
    output_url: str | None = None
    """Where a large output can be read."""

    example: ClassVar[dict[str, Any]] = _JOB


class TenantJob(ListedJob):
    """A job without its output, in a list whose query names a tenant."""

    tenant: str


class JobList(ResponseBody):
    """A page of jobs. It may be short or empty although `next_cursor` is set."""

    jobs: list[TenantJob | ListedJob]
    next_cursor: str | None
    """The cursor of the next page. Null: this is the last one."""
    scanned: int | None = None
    """The number of jobs that were looked at, if the query has filters."""
    scanned_to: datetime | None = None
    """When the last of them was accepted. Null: there was none."""

    example: ClassVar[dict[str, Any]] = {
        "jobs": [{name: value for name, value in _JOB.items() if name != "output"}],
        "next_cursor": f"1769851800000000-{JOB_ID}",
        "scanned": 20,
        "scanned_to": "2026-01-31T09:30:00.000Z",
    }


class PurgedJob(ResponseBody):
    """The job that was purged."""

    purged: str

    example: ClassVar[dict[str, Any]] = {"purged": JOB_ID}


class CancelRequest(RequestBody):
    """A filter of jobs: at least one field besides `tenant`, or `all`."""

    status: str | None = None
    """`queued`, `running`, or both with a comma. Without it: both."""
    model: str | None = None
    version: str | None = None
    lane: Lane | None = None
    tenant: str | None = None
    """Another tenant, or `*` for all; needs a key with the role admin."""
    since: datetime | None = None
    """Accepted at this time or later."""
    until: datetime | None = None
    """Accepted before this time."""
    metadata: Annotated[dict[str, str], Field(max_length=MAX_METADATA)] | None = None
    """Pairs that the metadata of a job must have."""
    all: bool | None = None
    """True, in place of a filter: all open jobs."""
    dry_run: bool | None = None
    """True: count the jobs, and cancel none."""
    cursor: str | None = None
    """`next_cursor` of an earlier response."""

    example: ClassVar[dict[str, Any]] = {"status": "queued", "model": "digits", "metadata": {"order": "17"}}


class CanceledJobs(ResponseBody):
    """The number of jobs that were canceled, and how far the call has looked."""

    canceled: int
    matched: int
    """The number of jobs that match. Some may have ended before they were canceled."""
    dry_run: bool
    more: bool
    """True: call again with `next_cursor`."""
    next_cursor: str | None
    scanned: int
    scanned_to: datetime | None

    example: ClassVar[dict[str, Any]] = {
        "canceled": 14,
        "matched": 14,
        "dry_run": False,
        "more": False,
        "next_cursor": None,
        "scanned": 20,
        "scanned_to": "2026-01-31T09:30:00.000Z",
    }


class SubmittedJobs(ResponseBody):
    """One entry for each job of a request, in the order sent: the job, or the error of a job that was refused."""

    jobs: list[Job | RefusedJob]

    example: ClassVar[dict[str, Any]] = {
        "jobs": [
            _JOB,
            {"error": {"code": "invalid_request", "message": "job 2 must be a JSON object", "status": 422}},
        ]
    }


class JobQuery(RequestBody):
    """The jobs to read or to wait for."""

    ids: Annotated[list[str], Field(min_length=1)]
    """Ids of jobs, up to `JITNEY_MAX_JOBS_PER_REQUEST`."""
    wait: Annotated[int, Field(ge=0)] = 0
    """Seconds to wait for the ends of the jobs. Longer waits are cut."""
    min_final: Annotated[int, Field(ge=1)] | None = None
    """Return once this number of the jobs is final, without waiting for the others. Absent: all of them."""

    example: ClassVar[dict[str, Any]] = {"ids": [JOB_ID], "wait": 10, "min_final": 1}


class QueriedJobs(ResponseBody):
    """One entry for each id, in the order sent: the job, or the error that reading it alone has."""

    jobs: list[Job | RefusedJob]

    example: ClassVar[dict[str, Any]] = {
        "jobs": [
            _JOB,
            {"error": {"code": "job_not_found", "message": "no job 17; results are kept for 3600 s", "status": 404}},
        ]
    }


class Prediction(ResponseBody):
    """A class of the model, and its probability."""

    label: str
    probability: float


class Predictions(ResponseBody):
    """What `/predict` answers."""

    success: Literal[True]
    predictions: list[Prediction]
    """The best first."""

    example: ClassVar[dict[str, Any]] = {"success": True, "predictions": [{"label": "7", "probability": 0.998}]}


class JobNotification(ResponseBody):
    """What the receiver of a webhook gets when a job ends."""

    type: WebhookEvent
    timestamp: datetime
    data: Job

    example: ClassVar[dict[str, Any]] = {"type": "job.succeeded", "timestamp": "2026-01-31T09:30:00.003Z", "data": _JOB}


class ReadTokenRequest(RequestBody):
    """How long a read token lasts."""

    ttl_s: Annotated[int, Field(ge=1, le=MAX_TTL_S)] = DEFAULT_TTL_S
    """Seconds until it expires."""

    example: ClassVar[dict[str, Any]] = {"ttl_s": 600}


class ReadTokenUrls(ResponseBody):
    """The paths that a read token opens, with the token."""

    self: str
    events: str
    output: str


class ReadToken(ResponseBody):
    """A token that reads one job."""

    token: str
    expires_at: datetime
    urls: ReadTokenUrls

    example: ClassVar[dict[str, Any]] = {
        "token": _READ_TOKEN,
        "expires_at": "2026-01-31T09:40:00.000Z",
        "urls": {
            "self": f"/v1/jobs/{JOB_ID}?token={_READ_TOKEN}",
            "events": f"/v1/jobs/{JOB_ID}/events?token={_READ_TOKEN}",
            "output": f"/v1/jobs/{JOB_ID}/output?token={_READ_TOKEN}",
        },
    }
