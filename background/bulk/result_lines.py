"""Formats the outcome of a bulk line for the output or the error file, and errors of a whole bulk job."""

import logging
from typing import Any, Final, NamedTuple

import orjson

from jobs.bulk.checkpoints import line_number
from jobs.contract.errors import JitneyError
from jobs.contract.job import Job
from jobs.contract.job_view import job_view, split_view
from jobs.store import codec

log = logging.getLogger("jitney.background")

# Error codes and messages of lines that ended with their bulk job, by job state.
BATCH_ERRORS: Final = {
    "canceled": ("batch_cancelled", "the batch was cancelled before this line was done"),
    "expired": ("batch_expired", "the batch expired before this line was done"),
}
UNREADABLE: Final = {"code": "unreadable_job", "message": "the outcome of this line cannot be read", "status": 422}
GONE: Final = {"code": "output_not_stored", "message": "Redis lost the output of this line", "status": 507}
# A line's job is not kept beside the result files, so these fields would lead nowhere.
HIDDEN_FIELDS: Final = ("urls", "position", "eta_ms")


class ChunkedOutput(NamedTuple):
    """An output that lies in chunks (jobs/store/outputs.py), the rest of its line, and the line if it is gone."""

    job_id: str
    attempt: int
    chunks: int
    tail: bytes
    gone: bytes


class RenderedLine(NamedTuple):
    """A line of a result file, whether it belongs in the output file, and the size of its outcome in the log.

    With `chunked`, `text` is what comes before that output.
    """

    text: bytes
    succeeded: bool
    log_bytes: int = 0
    chunked: ChunkedOutput | None = None


def render_line(outcome: bytes) -> RenderedLine:
    """Format an outcome as logged by `completion.lua`; one that cannot be read becomes a failed line."""
    line_id, custom_id, values = codec.read_outcome(outcome)
    try:
        return _render_line(line_id, custom_id, values)
    except Exception:
        log.exception("cannot read the outcome of bulk line %s", line_id)
        return _render_failure(line_id, custom_id, "failed", UNREADABLE)


def _render_line(line_id: str, custom_id: str | None, values: list[Any]) -> RenderedLine:
    if len(values) == len(("state", "error")):
        state, error = values
        line = _render_failure(line_id, custom_id, state.decode(), orjson.loads(error))
        return line._replace(log_bytes=len(error))
    job, chunks = codec.read_line_job(line_id, values)
    if job is None:
        return _render_failure(line_id, custom_id, "failed", UNREADABLE)
    log_bytes = len(job.output or job.error or b"")
    if job.state == "succeeded" and chunks:
        head, tail = split_view(lambda marked: _render_success(line_id, custom_id, marked), job)
        gone = _render_failure(line_id, custom_id, "failed", GONE).text
        chunked = ChunkedOutput(job.id, job.attempts, chunks, tail, gone)
        return RenderedLine(head, succeeded=True, log_bytes=job.output_bytes or 0, chunked=chunked)
    if job.state == "succeeded":
        return RenderedLine(_render_success(line_id, custom_id, job), succeeded=True, log_bytes=log_bytes)
    error = orjson.loads(job.error or b"{}")
    response = {"status_code": error.get("status", 500), "request_id": job.id, "body": _render_job(job)}
    return _render_failure(line_id, custom_id, job.state, error, response)._replace(log_bytes=log_bytes)


def _render_success(line_id: str, custom_id: str | None, job: Job) -> bytes:
    response = {"status_code": 200, "request_id": job.id, "body": _render_job(job)}
    line = {"id": f"batch_req_{line_id}", "custom_id": custom_id, "response": response, "error": None}
    return orjson.dumps(line) + b"\n"


def _render_failure(
    line_id: str, custom_id: str | None, state: str, error: dict[str, Any], response: dict[str, Any] | None = None
) -> RenderedLine:
    code, message = BATCH_ERRORS.get(state, (error.get("code"), error.get("message")))
    view = {"code": code, "message": message, "line": line_number(line_id)}
    text = {"id": f"batch_req_{line_id}", "custom_id": custom_id, "response": response, "error": view}
    return RenderedLine(orjson.dumps(text) + b"\n", succeeded=False)


def _render_job(job: Job) -> dict[str, Any]:
    return {name: value for name, value in job_view(job).items() if name not in HIDDEN_FIELDS}


def reason_view(error: JitneyError, number: int | None = None) -> dict[str, Any]:
    """Return the view of an error of a line, or of the whole bulk job, in OpenAI's format."""
    return {"code": error.code, "message": error.message, "param": error.details.get("param"), "line": number}
