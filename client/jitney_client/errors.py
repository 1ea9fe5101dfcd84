"""Defines the errors of the client. All are JitneyError.

JitneyError
├─ ApiError            an error response; `code`, `status`, `message`, `details`
│  ├─ Unauthorized     401, 403
│  ├─ NotFound         404
│  └─ Overloaded       429, 503: a limit is reached, or the service is full or away
├─ ConnectionFailed    no response came
├─ JobFailed           a job ended without output; `job`, `code`, `message`, `status`
│  ├─ JobCanceled
│  └─ JobExpired
├─ BatchFailed         a batch ended without running its lines; `batch`
├─ WaitTimeout         a wait is over and the job or batch goes on; also a TimeoutError
└─ InvalidSignature    a webhook that was not signed with the secret, or is too old
"""

import json
from typing import TYPE_CHECKING, Any, Final

import httpx2

if TYPE_CHECKING:
    from jitney_client.views import BatchView, JobView

# Statuses that a repeat of the request may resolve. 502 and 504 come from proxies.
TEMPORARY: Final = frozenset({408, 429, 502, 503, 504})


class JitneyError(Exception):
    """Any error of this package. `is_temporary`: a repeat of the request may succeed."""

    is_temporary: bool = False
    retry_after_s: float | None = None


class ApiError(JitneyError):
    """An error response. Decide by `code`; `message` is for people. `details` are the further fields of the problem."""

    def __init__(
        self, status: int, code: str, message: str, details: dict[str, Any], retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{message} ({status} {code})")
        self.status, self.code, self.message, self.details = status, code, message, details
        self.retry_after_s, self.is_temporary = retry_after_s, status in TEMPORARY


class Unauthorized(ApiError):
    """The API key is missing, unknown, or does not permit this."""


class NotFound(ApiError):
    """There is no such job, model, file or batch, or it is another tenant's."""


class Overloaded(ApiError):
    """A limit of the tenant is reached, or the service is full or away. The client has repeated the request."""


class ConnectionFailed(JitneyError):
    """No response came. The client has repeated the request."""

    is_temporary = True


class JobFailed(JitneyError):
    """A job ended without output. `code` and `message` are those of its error."""

    def __init__(self, job: "JobView") -> None:
        error = job.error or {}
        self.job, self.code, self.status = job, error.get("code", job.status), error.get("status")
        self.message = error.get("message", f"the job is {job.status}")
        super().__init__(f"job {job.id} {job.status}: {self.message} ({self.code})")


class JobCanceled(JobFailed):
    """The job was canceled."""


class JobExpired(JobFailed):
    """The job was not done before its deadline."""


class BatchFailed(JitneyError):
    """A batch ended without running its lines: none could be read, or it could not go on."""

    def __init__(self, batch: "BatchView") -> None:
        self.batch = batch
        reasons = "; ".join(each["message"] for each in batch.errors) or "no reason is given"
        super().__init__(f"batch {batch.id} failed: {reasons}")


class WaitTimeout(JitneyError, TimeoutError):
    """The wait is over, and the job or batch with this id goes on."""

    def __init__(self, what: str, id_: str, status: str) -> None:
        super().__init__(f"the wait is over: {what} {id_} is {status}, and goes on")
        self.id = id_


class InvalidSignature(JitneyError):
    """The webhook is not signed with this secret, or it is too old."""


def api_error(response: httpx2.Response) -> ApiError:
    """Return the error of a response, in whichever of the service's forms it has."""
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    fields = body if isinstance(body, dict) else {}
    inner = fields.get("error")
    fields = inner if isinstance(inner, dict) else fields  # OpenAI's form, of files and batches
    message = fields.get("detail") or fields.get("message") or response.text[:200] or response.reason_phrase
    code = fields.get("code") or f"http_{response.status_code}"
    known = {"type", "title", "status", "code", "detail", "message", "success"}
    details = {name: value for name, value in fields.items() if name not in known}
    retry_after_s = read_retry_after(response.headers.get("retry-after"))
    return _kind(response.status_code)(response.status_code, code, message, details, retry_after_s)


def entry_error(error: dict[str, Any]) -> ApiError:
    """Return the error of one entry of a response with many jobs."""
    known = {"code", "message", "status"}
    details = {name: value for name, value in error.items() if name not in known}
    return _kind(error["status"])(error["status"], error["code"], error["message"], details, error.get("retry_after_s"))


def _kind(status: int) -> type[ApiError]:
    return {401: Unauthorized, 403: Unauthorized, 404: NotFound, 429: Overloaded, 503: Overloaded}.get(status, ApiError)


def read_retry_after(text: str | None) -> float | None:
    """Parse the seconds of a Retry-After header; None for a date or another text."""
    try:
        return max(0.0, float(text or ""))
    except ValueError:
        return None
