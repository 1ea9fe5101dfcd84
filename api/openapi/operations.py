"""The bodies, answers, headers and errors of each operation. Its text and parameters come from its route."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

from pydantic import Field

from api.openapi.schemas import (
    bulk,
    dead_letters,
    health,
    inference,
    jobs,
    model_versions,
    queues,
    tenants,
    texts,
    webhooks,
)
from api.openapi.schemas.bodies import Binary

JSON: Final = "application/json"
FORM: Final = "multipart/form-data"
BYTES: Final = "application/octet-stream"
_LINES: Final = Annotated[str, Field(examples=['{"custom_id": "1", "response": {"status_code": 200, "body": {}}}\n'])]
_JOB_LINES: Final = Annotated[str, Field(examples=['{"input": {"text": "one"}}\n{"input": {"text": "two"}}\n'])]
_EVENTS: Final = Annotated[str, Field(examples=['id: 1\nevent: queued\ndata: {"id":"00…","status":"queued"}\n\n'])]
_SNAPSHOTS: Final = Annotated[
    str, Field(examples=['event: snapshot\ndata: {"queues":[],"models":[],"workers":[]}\n\n'])
]
_METRICS: Final = Annotated[str, Field(examples=["# TYPE jitney_workers gauge\njitney_workers 1.0\n"])]
_OUTPUT: Final = Annotated[dict[str, Any], Field(examples=[jobs.Job.example["output"]])]
_TEXT_BODY: Final = Annotated[str, Field(examples=["a text"])]

_TEXT: Final = {"type": "string"}
_WHOLE_NUMBER: Final = {"type": "integer", "minimum": 0}
# header of an answer → its schema, and what it says
HEADERS: Final[Mapping[str, tuple[Mapping[str, Any], str]]] = {
    "Location": (_TEXT, "The path of the job."),
    "Retry-After": (_WHOLE_NUMBER, "Seconds after which to ask again."),
    "Preference-Applied": (_TEXT, "The wait in seconds that the request got, as `wait=10`."),
    "Idempotent-Replayed": (_TEXT, "`true`: this Idempotency-Key made the job before."),
    "RateLimit-Policy": (_TEXT, 'The tenant\'s limit of requests, as `"requests";q=600;w=60`. Absent without a limit.'),
    "RateLimit": (_TEXT, 'What is left of it, as `"requests";r=598;t=1`. Absent without a limit.'),
    "WWW-Authenticate": (_TEXT, "The scheme of authentication that is expected."),
    "X-Should-Retry": (_TEXT, "Tells OpenAI's clients whether to retry: `true` or `false`."),
    "Content-Disposition": (_TEXT, "The name of the file."),
    "Jitney-Datatype": (_TEXT, "The datatype of the tensor."),
    "X-Request-ID": (_TEXT, "The id of the request, in log lines about it and its jobs: the caller's, or a new one."),
    "Server-Timing": (_TEXT, "Times of the job by stage in ms, as `queue;dur=0.4, infer;dur=0.9`."),
    "Jitney-Shape": (_TEXT, "The shape of the tensor, as `2,4`."),
    "Inference-Header-Content-Length": (_WHOLE_NUMBER, "The bytes of the JSON, behind which the raw tensors are."),
    "Content-Encoding": (_TEXT, "gzip or deflate, if the request accepts it."),
}
EVERY_ANSWER: Final = ("X-Request-ID",)  # its headers
# header of a request that a route reads itself → what it does
REQUEST_HEADERS: Final = {
    "Prefer": "`wait=N`: answer once the job is final, after at most N seconds.",
    "Idempotency-Key": "The same key with the same request gives the same result, without a second run.",
    "Last-Event-ID": "Go on behind this event.",
    "X-Request-ID": "An id for the request, up to 128 printable characters. It is kept on the jobs, and returned.",
    "traceparent": "The caller's place in a trace (W3C Trace Context). It is kept on the jobs, and sent with webhooks.",
    "Inference-Header-Content-Length": "The bytes of the JSON, behind which the raw tensors are. 0: one tensor alone.",
    "Accept-Encoding": "`gzip` or `deflate`: pack the answer, if it is large.",
}


def header_refs(names: Sequence[str]) -> Mapping[str, Any]:
    """Return the headers of an answer, as references to `HEADERS`."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


class Answer(NamedTuple):
    """An answer that is no error. `content`: the type of the body by media type. `example`: if not that of the type."""

    content: Mapping[str, Any]
    description: str
    headers: tuple[str, ...] = ()
    example: Any = None


class Operation(NamedTuple):
    """`body`: the type of the request's body by media type. `errors`: codes, besides those of all operations."""

    answers: Mapping[int, Answer]
    errors: tuple[str, ...] = ()
    body: Mapping[str, Any] | None = None
    headers: tuple[str, ...] = ()
    is_body_required: bool = True


_JOB: Final = "job_not_found"
_EXPIRED: Final = "token_expired"  # of the operations that take a read token
_LETTER: Final = "dead_letter_not_found"
_DELIVERY: Final = "delivery_not_found"
_KEY: Final = ("Idempotency-Key",)
_ORIGIN: Final = ("X-Request-ID", "traceparent")
# A job is refused for its model and its input, and because something is full.
_MODEL: Final = ("model_not_found", "model_required", "model_unavailable")
_SUBMIT: Final = (
    *_MODEL,
    *("invalid_input", "unsupported_media_type", "image_too_many_pixels", "invalid_image", "invalid_webhook"),
    *("invalid_audio", "audio_too_long"),
    *("idempotency_mismatch", "result_expired", "queue_full", "queue_paused", "quota_exceeded"),
)
# How a job ends that a request waits for.
_FAILED_JOB: Final = (
    *("inference_failed", "resource_exhausted", "poison", "too_many_attempts", "unreadable_job", "output_too_large"),
    *("output_not_stored", "canceled", "deadline_exceeded", "wait_over"),
)


def _json(schema: Any, description: str, *headers: str, status: int = 200, example: Any = None) -> dict[int, Answer]:
    return {status: Answer({JSON: schema}, description, headers, example)}


def _stream(description: str) -> dict[int, Answer]:
    return {200: Answer({"text/event-stream": _EVENTS}, description)}


def _change(body: Any, *, is_body_required: bool = False) -> Operation:
    """Return the operation that changes a model's rollout plan."""
    answers = _json(model_versions.ModelRollout, "The model after the change.")
    errors = ("model_not_found", "version_not_found", "version_not_ready", "nothing_to_roll_back")
    return Operation(answers, errors, {JSON: body}, is_body_required=is_body_required)


def _served(schema: Any, description: str) -> Operation:
    """Return the operation that reads what a model, or one of its versions, is in the Open Inference Protocol."""
    return Operation(_json(schema, description), (*_MODEL, "version_not_found", "invalid_input"))


_TENSORS: Final = {JSON: inference.InferenceRequest, BYTES: Binary}
_INFER: Final = Operation(
    {
        200: Answer(
            {JSON: inference.InferenceResponse, BYTES: Binary},
            "The outputs. As bytes: the JSON, whose length is in a header, and behind it the tensors.",
            ("Inference-Header-Content-Length", "Content-Encoding"),
        )
    },
    (*_SUBMIT, *_FAILED_JOB, "version_not_found"),
    _TENSORS,
    (*_KEY, "Inference-Header-Content-Length", "Accept-Encoding"),
)
_INFER_LATER: Final = Operation(
    _json(jobs.Job, "The job is accepted.", "Location", "Idempotent-Replayed", "Retry-After", status=202),
    (*_SUBMIT, "version_not_found"),
    _TENSORS,
    (*_KEY, "Inference-Header-Content-Length"),
)
_MODEL_READY: Final = Operation(
    {
        **_json(inference.ServedModelReady, "A live worker serves it."),
        **_json(inference.ServedModelReady, "None does.", status=503, example={"name": "double", "ready": False}),
    },
    ("model_not_found", "version_not_found"),
)
_REPOSITORY_CHANGE: Final = Operation(
    _json(inference.Done, "It is done."),
    ("model_not_found", "model_unavailable", "wait_over"),
    {JSON: inference.RepositoryRequest},
    is_body_required=False,
)


def _change_queue(answer: Any, body: Any, *, is_body_required: bool = False) -> Operation:
    """Return the operation that changes the queue of a model."""
    answers = _json(answer, "The result of the change.")
    return Operation(answers, ("model_not_found",), {JSON: body}, is_body_required=is_body_required)


_SUBMITTED: Final = jobs.Job | jobs.SubmittedJobs
_SUBMIT_HEADERS: Final = ("Location", "Preference-Applied", "Idempotent-Replayed")
_SUBMIT_BODY: Final = {
    JSON: jobs.JobRequest,  # or an array: generated clients do not get along with such a union
    "application/x-ndjson": _JOB_LINES,
    FORM: jobs.JobForm,
    "image/*": Binary,
    "audio/*": Binary,
    "text/plain": _TEXT_BODY,
    BYTES: Binary,
}

_DRAINING: Final = {
    "status": "draining",
    "reason": "this gateway is shutting down",
    "models": {},
    "warnings": [],
    "queue": {"safe": True, "warnings": []},
}
# What receivers of webhooks get, and the header fields that they get besides.
NOTIFICATIONS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "jobEnded": ("A job has ended", {JSON: jobs.JobNotification}),
    "batchEnded": ("A batch has ended", {JSON: bulk.BatchNotification}),
}
NOTIFICATION_HEADERS: Final = {
    "webhook-id": "The id of the delivery, the same for all attempts. Handle each id once.",
    "webhook-timestamp": "The time of this attempt, in seconds since 1970.",
    "webhook-signature": "`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`. After a rotation, two of them.",
}

OPERATIONS: Final[Mapping[str, Operation]] = {
    "submitJob": Operation(
        {
            200: Answer(
                {JSON: _SUBMITTED}, "The caller waited, and all jobs are final.", (*_SUBMIT_HEADERS, "Server-Timing")
            ),
            202: Answer({JSON: _SUBMITTED}, "The jobs are accepted.", (*_SUBMIT_HEADERS, "Retry-After")),
        },
        (*_SUBMIT, "too_many_jobs", "version_not_ready"),
        _SUBMIT_BODY,
        ("Prefer", *_KEY, *_ORIGIN),
    ),
    "readJob": Operation(_json(jobs.Job, "The job.", "Retry-After"), (_JOB, _EXPIRED)),
    "readOutput": Operation(
        {
            200: Answer(
                {JSON: _OUTPUT, BYTES: Binary},
                "The output alone, or the bytes of its only tensor.",
                ("Jitney-Datatype", "Jitney-Shape"),
            )
        },
        (_JOB, _EXPIRED, "no_output", "not_acceptable"),
    ),
    "listJobs": Operation(_json(jobs.JobList, "A page of jobs.")),
    "queryJobs": Operation(
        _json(jobs.QueriedJobs, "One entry for each id.", "Retry-After"), ("too_many_jobs",), {JSON: jobs.JobQuery}
    ),
    "cancelJob": Operation(
        _json(jobs.Job | jobs.PurgedJob, "The canceled job, or the id of the purged one."),
        (_JOB, "job_already_final", "job_not_final"),
    ),
    "cancelJobs": Operation(_json(jobs.CanceledJobs, "The number of canceled jobs."), body={JSON: jobs.CancelRequest}),
    "listQueues": Operation(_json(queues.QueueList, "The queues.")),
    "pauseQueue": _change_queue(queues.QueueList, queues.PauseRequest),
    "resumeQueue": _change_queue(queues.QueueList, queues.ResumeRequest),
    "purgeQueue": _change_queue(queues.PurgedQueue, queues.PurgeRequest, is_body_required=True),
    "listWorkers": Operation(_json(queues.WorkerList, "The workers.")),
    "pauseWorker": Operation(_json(queues.Worker, "The worker."), ("worker_not_found",)),
    "resumeWorker": Operation(_json(queues.Worker, "The worker."), ("worker_not_found",)),
    "readUsage": Operation(_json(tenants.TenantView, "The usage and the limits.")),
    "listTenants": Operation(_json(tenants.TenantList, "A page of tenants.")),
    "readTenant": Operation(_json(tenants.TenantView, "The tenant.")),
    "changeLimits": Operation(
        _json(tenants.TenantView, "The tenant after the change."), body={JSON: tenants.LimitsRequest}
    ),
    "restoreLimits": Operation(_json(tenants.TenantView, "The tenant after the change.")),
    "followJob": Operation(
        {**_stream("The events of the job."), 204: Answer({}, "The job has ended, and the caller had all events.")},
        (_JOB, _EXPIRED),
        headers=("Last-Event-ID",),
    ),
    "makeReadToken": Operation(
        _json(jobs.ReadToken, "The token."), (_JOB,), {JSON: jobs.ReadTokenRequest}, is_body_required=False
    ),
    "followQueue": Operation({200: Answer({"text/event-stream": _SNAPSHOTS}, "Snapshots of the whole queue.")}),
    "followJobs": Operation(_stream("The events of all jobs."), headers=("Last-Event-ID",)),
    "predictImage": Operation(
        _json(jobs.Predictions, "Labels and probabilities, the best first.", "Server-Timing"),
        (*_SUBMIT, *_FAILED_JOB),
        {FORM: jobs.PredictForm},
        (*_KEY, *_ORIGIN),
    ),
    "createEmbeddings": Operation(
        _json(texts.Embeddings, "The vectors, in the order of the texts."),
        (*_SUBMIT, *_FAILED_JOB),
        {JSON: texts.EmbeddingsRequest},
        _KEY,
    ),
    "rankDocuments": Operation(
        _json(texts.Ranking, "The documents, the best first."),
        (*_SUBMIT, *_FAILED_JOB),
        {JSON: texts.RerankRequest},
        _KEY,
    ),
    "uploadFile": Operation(
        _json(bulk.File, "The file."), ("storage_unavailable", "quota_exceeded"), {FORM: bulk.FileForm}
    ),
    "listFiles": Operation(_json(bulk.FileList, "A page of files."), ("file_not_found",)),
    "readFile": Operation(_json(bulk.File, "The record of the file."), ("file_not_found",)),
    "downloadFile": Operation(
        {
            200: Answer(
                {"application/jsonl": _LINES},
                "The lines. Of a running batch: the results so far.",
                ("Content-Disposition",),
            )
        },
        ("file_not_found", "storage_unavailable"),
    ),
    "deleteFile": Operation(
        _json(bulk.DeletedFile, "The file is deleted."), ("file_not_found", "file_in_use", "storage_unavailable")
    ),
    "createBatch": Operation(
        _json(bulk.Batch, "The batch."),
        ("file_not_found", "batch_not_found", "invalid_webhook", "idempotency_mismatch", "quota_exceeded"),
        {JSON: bulk.BatchRequest},
        _KEY,
    ),
    "listBatches": Operation(_json(bulk.BatchList, "A page of batches."), ("batch_not_found",)),
    "readBatch": Operation(_json(bulk.Batch, "The batch."), ("batch_not_found",)),
    "cancelBatch": Operation(_json(bulk.Batch, "The batch."), ("batch_not_found", "batch_already_final")),
    "listDeadLetters": Operation(_json(dead_letters.DeadLetterList, "A page of dead letters.")),
    "purgeDeadLetters": Operation(_json(dead_letters.PurgedDeadLetters, "The number of purged dead letters.")),
    "replayDeadLetters": Operation(
        _json(dead_letters.ReplayedDeadLetters, "What became of them.", "Retry-After"),
        ("queue_full", "queue_paused", "quota_exceeded"),
    ),
    "readDeadLetter": Operation(_json(dead_letters.DeadLetter, "The dead letter."), (_LETTER,)),
    "readDeadLetterInput": Operation(
        {
            200: Answer(
                {BYTES: Binary, "image/*": Binary, "audio/*": Binary, "text/plain": str, JSON: Any},
                "The input as it was sent.",
                ("Content-Disposition",),
            )
        },
        (_LETTER,),
    ),
    "replayDeadLetter": Operation(
        _json(jobs.Job, "The new job.", "Location", "Idempotent-Replayed", status=202),
        (_LETTER, *_SUBMIT),
        headers=_KEY,
    ),
    "purgeDeadLetter": Operation(_json(dead_letters.PurgedDeadLetter, "It is purged."), (_LETTER,)),
    "attachWebhook": Operation(
        {
            **_json(webhooks.AttachedWebhook, "The job has not ended: its end will be notified."),
            **_json(webhooks.Delivery, "The job has ended: the delivery of its end.", status=202),
        },
        (_JOB, "invalid_webhook", "too_many_webhooks"),
        {JSON: webhooks.Webhook},
    ),
    "listDeliveries": Operation(_json(webhooks.DeliveryList, "A page of deliveries.")),
    "replayDeliveries": Operation(_json(webhooks.ResentDeliveries, "The number of deliveries.")),
    "listEndpoints": Operation(_json(webhooks.EndpointList, "The receivers.")),
    "readDelivery": Operation(_json(webhooks.Delivery, "The delivery."), (_DELIVERY,)),
    "replayDelivery": Operation(_json(webhooks.Delivery, "The delivery, due again.", status=202), (_DELIVERY,)),
    "readWebhookSecret": Operation(_json(webhooks.WebhookSecret, "The secret.")),
    "rotateWebhookSecret": Operation(_json(webhooks.WebhookSecret, "The new secret, and the previous one.")),
    "listModels": Operation(_json(model_versions.ModelList, "The versions.")),
    "readModel": Operation(_json(model_versions.ModelRollout, "The model."), ("model_not_found",)),
    "loadModel": _change(model_versions.VersionRequest),
    "unloadModel": _change(model_versions.VersionRequest),
    "shareModel": _change(model_versions.ShareRequest, is_body_required=True),
    "promoteModel": _change(model_versions.VersionRequest),
    "rollbackModel": _change(model_versions.NoFields),
    "followModel": _change(model_versions.NoFields),
    "checkHealth": Operation(_json(health.Liveness, "The process runs.")),
    "checkReadiness": Operation(
        {
            **_json(health.Readiness, "The gateway accepts jobs."),
            **_json(health.Readiness, "It does not, with the reason.", status=503, example=_DRAINING),
        }
    ),
    "checkModelReadiness": Operation(
        {
            **_json(health.ModelReadiness, "A live worker serves the model."),
            **_json(
                health.ModelReadiness | health.Readiness,
                "None does, with the reason.",
                status=503,
                example={"status": "unready", "model": "digits", "reason": "no live worker serves it"},
            ),
        },
        ("model_not_found",),
    ),
    "readProcessMetrics": Operation({200: Answer({"text/plain": _METRICS}, "Metrics in Prometheus' text format.")}),
    "runInference": _INFER,
    "runVersionInference": _INFER,
    "submitInference": _INFER_LATER,
    "submitVersionInference": _INFER_LATER,
    "readServerMetadata": Operation(_json(inference.ServerMetadata, "The server.")),
    "checkServerLive": Operation(_json(inference.ServerLive, "The process runs.")),
    "checkServerReady": Operation(
        {
            **_json(inference.ServerReady, "The gateway accepts jobs."),
            **_json(inference.ServerReady, "It does not.", status=503, example={"ready": False}),
        }
    ),
    "readAllStatistics": Operation(_json(inference.ModelStatistics, "The statistics.")),
    "listRepository": Operation(
        _json(inference.RepositoryIndex, "The versions."),
        (),
        {JSON: inference.RepositoryIndexRequest},
        is_body_required=False,
    ),
    "loadRepositoryModel": _REPOSITORY_CHANGE,
    "unloadRepositoryModel": _REPOSITORY_CHANGE,
    "readModelMetadata": _served(inference.ModelMetadata, "The model."),
    "readVersionMetadata": _served(inference.ModelMetadata, "The version."),
    "checkModelReady": _MODEL_READY,
    "checkVersionReady": _MODEL_READY,
    "readModelConfig": _served(inference.ModelConfig, "The configuration."),
    "readVersionConfig": _served(inference.ModelConfig, "The configuration."),
    "readModelStatistics": _served(inference.ModelStatistics, "The statistics."),
    "readVersionStatistics": _served(inference.ModelStatistics, "The statistics."),
    "readMetrics": Operation({200: Answer({"text/plain": _METRICS}, "Metrics in Prometheus' text format.")}),
}
