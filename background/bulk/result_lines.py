"""Formats the outcome of a bulk line for the output or the error file, and errors of a whole bulk job."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from jobs.bulk.checkpoints import line_number
from jobs.contract.embeddings import EMBEDDINGS_URL, embeddings_view
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
    """An output that lies in chunks (jobs/store/outputs.py), the rest of its line, and the line if it is gone.

    `convert`: makes what the line has of the whole output; None: the output as it is.
    """

    job_id: str
    attempt: int
    chunks: int
    tail: bytes
    gone: bytes
    convert: Callable[[bytes], bytes] | None = None


class RenderedLine(NamedTuple):
    """A line of a result file, whether it belongs in the output file, and the size of its outcome in the log.

    With `chunked`, `text` is what comes before that output.
    """

    text: bytes
    succeeded: bool
    log_bytes: int = 0
    chunked: ChunkedOutput | None = None


def render_line(outcome: bytes, endpoint: str) -> RenderedLine:
    """Format an outcome as logged by `completion.lua`; one that cannot be read becomes a failed line.

    `endpoint` of its batch: the response has the format of that route.
    """
    line_id, custom_id, values = codec.read_outcome(outcome)
    try:
        return _render_line(line_id, custom_id, values, endpoint)
    except Exception:
        log.exception("cannot read the outcome of bulk line %s", line_id)
        return _render_failure(line_id, custom_id, "failed", UNREADABLE)


def _render_line(line_id: str, custom_id: str | None, values: list[Any], endpoint: str) -> RenderedLine:
    if len(values) == len(("state", "error")):
        state, error = values
        line = _render_failure(line_id, custom_id, state.decode(), orjson.loads(error))
        return line._replace(log_bytes=len(error))
    job, chunks = codec.read_line_job(line_id, values)
    if job is None:
        return _render_failure(line_id, custom_id, "failed", UNREADABLE)
    is_of_texts = endpoint == EMBEDDINGS_URL
    if job.state == "succeeded":
        return (_render_embeddings if is_of_texts else _render_output)(line_id, custom_id, job, chunks)
    error = orjson.loads(job.error or b"{}")
    response = {"status_code": error.get("status", 500), "request_id": job.id, "body": _render_job(job)}
    if is_of_texts:
        response["body"] = {"error": {"message": error.get("message"), "code": error.get("code"), "param": None}}
    log_bytes = len(job.error or b"")
    return _render_failure(line_id, custom_id, job.state, error, response)._replace(log_bytes=log_bytes)


def _render_output(line_id: str, custom_id: str | None, job: Job, chunks: int) -> RenderedLine:
    """Return the line of a job that succeeded, with the job as GET /v1/jobs/{id} shows it."""

    def render(job: Job) -> bytes:
        return _render_success(line_id, custom_id, job, _render_job(job))

    if not chunks:
        return RenderedLine(render(job), succeeded=True, log_bytes=len(job.output or b""))
    head, tail = split_view(render, job)
    line = _render_chunked(line_id, custom_id, job, chunks)
    return line._replace(text=head, chunked=line.chunked and line.chunked._replace(tail=tail))


def _render_embeddings(line_id: str, custom_id: str | None, job: Job, chunks: int) -> RenderedLine:
    """Return the line of a job that succeeded, in OpenAI's format."""

    def render(output: bytes) -> bytes:
        try:
            body = embeddings_view(job.model, orjson.loads(output)["rows"])
        except KeyError:  # a model of another task
            body = _render_job(job._replace(output=output))
        return _render_success(line_id, custom_id, job, body)

    if not chunks:
        return RenderedLine(render(job.output or b"{}"), succeeded=True, log_bytes=len(job.output or b""))
    line = _render_chunked(line_id, custom_id, job, chunks)
    return line._replace(chunked=line.chunked and line.chunked._replace(convert=render))


def _render_chunked(line_id: str, custom_id: str | None, job: Job, chunks: int) -> RenderedLine:
    gone = _render_failure(line_id, custom_id, "failed", GONE).text
    chunked = ChunkedOutput(job.id, job.attempts, chunks, b"", gone)
    return RenderedLine(b"", succeeded=True, log_bytes=job.output_bytes or 0, chunked=chunked)


def _render_success(line_id: str, custom_id: str | None, job: Job, body: Mapping[str, Any]) -> bytes:
    response = {"status_code": 200, "request_id": job.id, "body": body}
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
