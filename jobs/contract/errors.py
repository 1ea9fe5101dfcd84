"""Everything that can go wrong with a job or a request; each case has a code, and the code its HTTP status.

JitneyError
├── Refused             this request, or this job's input, will not do as it is; sending it again changes nothing
└── NotNow              ours: nothing was taken, the same request may be sent again
    ├── StoreUnavailable    Redis can not be reached or can not write
    ├── QueueFull           too much waits already
    └── OverLimit           this tenant has its share already

The codes are a promise to callers: `docs/api.md` lists them, and a test compares that list with `CODES`.
"""

from typing import Any

# code → (status at the synchronous doors, what it means). The only list.
CODES: dict[str, tuple[int, str]] = {
    "malformed_request": (400, "the request can not be read: broken JSON, multipart, base64 or query"),
    "unauthorized": (401, "the request has no API key, or none that is known"),
    "forbidden": (403, "the key is good, but not for this; or another site's page calls a service without keys"),
    "job_not_found": (404, "no such job, another caller's job, or one whose result is no longer kept"),
    "dead_letter_not_found": (404, "no such dead letter, another caller's, or one that is kept no more"),
    "file_not_found": (404, "no such file, another caller's, or one that has expired"),
    "batch_not_found": (404, "no such batch, another caller's, or one that is kept no more"),
    "delivery_not_found": (404, "no such webhook delivery, another caller's, or one that is kept no more"),
    "model_not_found": (404, "no worker has announced a model of this name"),
    "version_not_found": (404, "no live worker has this version of the model, neither loaded nor in its folder"),
    "route_not_found": (404, "no such path"),
    "method_not_allowed": (405, "the path exists, the method does not"),
    "request_timeout": (408, "the request body did not arrive in time"),
    "version_not_ready": (409, "no live worker has this version of the model ready to take jobs"),
    "nothing_to_roll_back": (409, "there is no canary, and no earlier version of the model that is still loaded"),
    "job_already_final": (409, "the job has ended; its state does not change any more"),
    "batch_already_final": (409, "the batch has ended; its status does not change any more"),
    "batch_cancelled": (409, "in an error file: the batch was cancelled before this line was done"),
    "file_in_use": (409, "a batch that has not ended reads or writes this file"),
    "canceled": (409, "the job was canceled while the caller waited"),
    "result_expired": (410, "the job of this Idempotency-Key has ended, it is not run again; its result is gone"),
    "body_too_large": (413, "the request body, or one job's input, is above a limit that no wait changes"),
    "too_many_jobs": (413, "the request brings more jobs than the limit"),
    "image_too_many_pixels": (413, "the image declares more pixels than the limit"),
    "unsupported_media_type": (415, "the content type, or the file format by its first bytes, is not on the list"),
    "invalid_request": (422, "a field is missing, unknown or outside its range"),
    "invalid_image": (422, "the image can not be decoded"),
    "invalid_input": (422, "the input does not fit what the model declares"),
    "invalid_webhook": (422, "the webhook's address is malformed, or not one that is spoken to; the message says why"),
    "too_many_webhooks": (422, "this job has as many webhooks as one may have"),
    "idempotency_mismatch": (422, "this Idempotency-Key was used with another request"),
    "model_required": (422, "several models are served and none was named"),
    "inference_failed": (422, "the model could not run this input"),
    "duplicate_custom_id": (422, "in an error file: an earlier line of the batch has this custom_id"),
    "image_unavailable": (
        422,
        "the image that a line names by URL or key can not be had, or is not one that is fetched",
    ),
    "empty_file": (422, "the batch's file has no line, or none that can be run"),
    "unreadable_job": (422, "what lies in the queue under this id is not a job that a worker can read"),
    "resource_exhausted": (422, "this input alone needs more memory than the device has"),
    "poison": (422, "the worker died each time it ran this job, at last with this job alone"),
    "too_many_attempts": (422, "the job was tried as often as is allowed; the message says what stopped it"),
    "rate_limited": (
        429,
        "more requests, or event streams, than this tenant may have; Retry-After says when the next is taken",
    ),
    "quota_exceeded": (429, "this tenant has as many open jobs, or bytes of their inputs, as it may have"),
    "head_too_large": (431, "the request's line and header fields are above the limit"),
    "internal_error": (500, "a fault of ours; the log has the details"),
    "model_unavailable": (503, "the model is known, but can not be loaded at present"),
    "queue_full": (503, "too many jobs, or too many bytes, wait already; Retry-After says when to come back"),
    "too_many_connections": (503, "this gateway holds as many connections as it may"),
    "storage_unavailable": (503, "the storage of bulk files can not be reached, or has no room"),
    "store_unavailable": (503, "the queue's server can not be reached or can not write"),
    "wait_over": (504, "the wait ran out before the job was final"),
    "batch_expired": (504, "in an error file: the batch's window was over before this line was done"),
    "deadline_exceeded": (504, "the job's deadline passed before it was run"),
}

# A job that fails with one of these is kept as a dead letter: the fault may be ours, the model's or the machine's.
DEAD_LETTER_CODES = frozenset(
    {"inference_failed", "unreadable_job", "resource_exhausted", "poison", "too_many_attempts"}
)


class JitneyError(Exception):
    """Base of all. `code` is stable, the message is for people, `details` are facts: the limit, what is allowed."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = CODES[code][0]
        self.message = message
        self.details = details


class Refused(JitneyError):
    """The request, or the job's own input, will not do as it is."""


class RetryLater(JitneyError):
    """Nothing was promised; the same request may be sent again."""


class QueueFull(RetryLater):
    """Too much waits already: a refusal now is kinder than an answer too late."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__("queue_full", message, **details)


class OverLimit(RetryLater):
    """One tenant wants more than it may have; the others are unaffected."""


class StoreUnavailable(RetryLater):
    """Redis did not take it."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__("store_unavailable", message, **details)


def to_jitney_error(error: Exception) -> JitneyError:
    """Give what went wrong with one of many (a job of a request, a line of a batch) as its own error.

    An exception that is none of ours becomes `internal_error`; the caller logs it.
    """
    if isinstance(error, JitneyError):
        return error
    return JitneyError("internal_error", f"an internal error ({type(error).__name__}); the service's log has it")
