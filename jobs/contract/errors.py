"""Error codes of jobs and requests with their HTTP statuses, and the exceptions that carry them.

JitneyError
├── Refused             the request, or the job's input, is invalid; repeating it does not help
└── RetryLater          nothing was accepted; the same request may be sent again
    ├── StoreUnavailable    Redis is unreachable or cannot write
    │   └── StoreFull           Redis is out of memory
    ├── QueueFull           too many jobs are open
    └── OverLimit           the tenant has reached a limit

The codes are part of the API: `docs/reference/errors.md` lists them, and a test compares that list with `CODES`.
"""

from typing import Any

# code → (HTTP status, meaning)
CODES: dict[str, tuple[int, str]] = {
    "malformed_request": (400, "the request cannot be parsed: broken JSON, multipart, base64 or query"),
    "unauthorized": (401, "the request has no API key, or an unknown one"),
    "token_expired": (401, "the read token in the query has expired"),
    "forbidden": (403, "the key does not permit this; or another site's page called a service without keys"),
    "job_not_found": (404, "no such job, another caller's job, or one whose result is no longer kept"),
    "dead_letter_not_found": (404, "no such dead letter, another caller's, or one that is no longer kept"),
    "file_not_found": (404, "no such file, another caller's, or one that has expired"),
    "batch_not_found": (404, "no such batch, another caller's, or one that is no longer kept"),
    "worker_not_found": (404, "no live worker has this id"),
    "delivery_not_found": (404, "no such webhook delivery, another caller's, or one that is no longer kept"),
    "model_not_found": (404, "no worker has announced a model of this name"),
    "version_not_found": (404, "no live worker has this version of the model, loaded or in its folder"),
    "route_not_found": (404, "no such path"),
    "method_not_allowed": (405, "the path exists, the method does not"),
    "not_acceptable": (406, "the output has no form that the Accept header allows; the message says how to get one"),
    "request_timeout": (408, "the request body did not arrive in time"),
    "version_not_ready": (409, "no live worker can take jobs for this version of the model yet"),
    "nothing_to_roll_back": (409, "there is no canary, and no earlier version of the model that is still loaded"),
    "no_output": (409, "the job has no output: it has not ended, or it did not succeed"),
    "job_not_final": (409, "the job has not ended; only a job that has ended can be purged"),
    "job_already_final": (409, "the job has ended; its state cannot change"),
    "batch_already_final": (409, "the batch has ended; its status cannot change"),
    "batch_cancelled": (409, "in an error file: the batch was cancelled before this line was done"),
    "file_in_use": (409, "a batch that has not ended reads or writes this file"),
    "canceled": (409, "the job was canceled while the caller waited"),
    "result_expired": (410, "the job of this Idempotency-Key has ended and its result is gone; it is not run again"),
    "body_too_large": (413, "the request body, or one job's input, is above a limit; a retry does not help"),
    "too_many_jobs": (413, "the request brings more jobs than the limit"),
    "image_too_many_pixels": (413, "the image declares more pixels than the limit"),
    "audio_too_long": (413, "the audio lasts longer than the limit"),
    "unsupported_media_type": (415, "the content type, or the file format by its first bytes, is not on the list"),
    "invalid_request": (422, "a field is missing, unknown or outside its range"),
    "invalid_image": (422, "the image cannot be decoded"),
    "invalid_audio": (
        422,
        "the audio cannot be decoded, is empty, or has an unsupported rate or number of channels",
    ),
    "invalid_input": (422, "the input does not fit what the model declares"),
    "invalid_webhook": (422, "the webhook's URL is malformed or not allowed; the message says why"),
    "too_many_webhooks": (422, "the job has reached the limit of webhooks per job"),
    "idempotency_mismatch": (422, "this Idempotency-Key was used with another request"),
    "model_required": (422, "several models are served and none was named"),
    "inference_failed": (422, "the model could not run this input"),
    "duplicate_custom_id": (422, "in an error file: an earlier line of the batch has this custom_id"),
    "image_unavailable": (422, "the image that a line names by URL or key cannot be fetched, or is not allowed"),
    "empty_file": (422, "the batch's file has no line, or none that can be run"),
    "unreadable_job": (422, "the record of the job in the queue is not readable by a worker"),
    "resource_exhausted": (422, "this input alone needs more memory than the device has"),
    "output_too_large": (422, "the output is above the limit of its model; `limit` has the bytes"),
    "poison": (422, "the worker died each time it ran this job, the last time with this job alone"),
    "too_many_attempts": (422, "the job has reached the limit of attempts; the message says what stopped it"),
    "rate_limited": (429, "the tenant has reached its limit of requests or event streams; see Retry-After"),
    "quota_exceeded": (429, "the tenant has reached its limit of open jobs, or of bytes of inputs and outputs"),
    "head_too_large": (431, "the request line and header fields are above the limit"),
    "internal_error": (500, "an unexpected error of the service; its log has the details"),
    "model_unavailable": (503, "the model is known, but cannot be loaded at present"),
    "queue_full": (503, "too many jobs, or too many bytes of input, are open; see Retry-After"),
    "queue_paused": (503, "the queue of this model and lane is paused and takes no new jobs; see Retry-After"),
    "too_many_connections": (503, "this gateway has reached its limit of connections"),
    "storage_unavailable": (503, "the storage of bulk files is unreachable or full"),
    "store_unavailable": (503, "Redis is unreachable or cannot write"),
    "output_not_stored": (507, "the job was run, but Redis has no memory for its output"),
    "wait_over": (504, "the wait ran out before the job was final"),
    "batch_expired": (504, "in an error file: the batch's window was over before this line was done"),
    "deadline_exceeded": (504, "the job's deadline passed before it was run"),
}

# Jobs that fail with these codes are kept as dead letters: the cause may be the service, the model or the machine.
DEAD_LETTER_CODES = frozenset(
    {"inference_failed", "unreadable_job", "resource_exhausted", "poison", "too_many_attempts"}
)


class JitneyError(Exception):
    """Base of all errors. `code` is stable, `message` is for people, `details` are facts such as the limit."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = CODES[code][0]
        self.message = message
        self.details = details


class Refused(JitneyError):
    """The request, or the job's input, is invalid; repeating it does not help."""


class RetryLater(JitneyError):
    """Nothing was accepted; the same request may be sent again."""


class QueueFull(RetryLater):
    """Too many jobs are open: refuse now rather than answer too late."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__("queue_full", message, **details)


class OverLimit(RetryLater):
    """The tenant has reached a limit; other tenants are unaffected."""


class StoreUnavailable(RetryLater):
    """Redis is unreachable or cannot write."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__("store_unavailable", message, **details)


class StoreFull(StoreUnavailable):
    """Redis is out of memory and refused a write."""


def to_jitney_error(error: Exception) -> JitneyError:
    """Return the error of one item among many (a job of a request, a line of a batch) as a JitneyError.

    Any other exception becomes `internal_error`; the caller logs it.
    """
    if isinstance(error, JitneyError):
        return error
    return JitneyError("internal_error", f"an internal error ({type(error).__name__}); the service's log has it")
