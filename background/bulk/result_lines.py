"""How a line's outcome stands in the output file, or in the error file."""

import logging
from typing import Any, Final, NamedTuple

import orjson

from jobs.bulk.checkpoints import line_number
from jobs.contract.job import Job
from jobs.contract.job_view import job_view
from jobs.store import codec

log = logging.getLogger("jitney.deliver")

JOB_OUTCOME_LENGTH: Final = 17  # words of the outcome of a line that was a job; others have fewer
# How a bulk's end shows at a line: by the job's state, in the words of the batch.
BATCH_ERRORS: Final = {
    "canceled": ("batch_cancelled", "the batch was cancelled before this line was done"),
    "expired": ("batch_expired", "the batch's window was over before this line was done"),
}
UNREADABLE: Final = {"code": "unreadable_job", "message": "what the line's job was cannot be read", "status": 422}
# A line's job is not kept beside the files: nothing can be asked of it.
HIDDEN_FIELDS: Final = ("urls", "position", "eta_ms")


class RenderedLine(NamedTuple):
    """A line of a results file; whether it belongs into the output file; and what it weighed in the log."""

    text: bytes
    succeeded: bool
    log_bytes: int


def render_line(outcome: bytes) -> RenderedLine:
    """Write the line of an outcome, as `completion.lua` logged it; one that cannot be read is a line that failed."""
    line_id, custom_id, *words = orjson.loads(outcome)
    try:
        return _render_line(line_id, custom_id, words)
    except Exception:
        log.exception("what became of line %s of a batch cannot be read", line_id)
        return RenderedLine(
            _render_failure(line_id, custom_id, "failed", UNREADABLE, None), succeeded=False, log_bytes=0
        )


def _render_line(line_id: str, custom_id: str | None, words: list[Any]) -> RenderedLine:
    if len(words) + 2 < JOB_OUTCOME_LENGTH:
        state, body = words
        return RenderedLine(
            _render_failure(line_id, custom_id, state, orjson.loads(body), None), succeeded=False, log_bytes=len(body)
        )
    job = codec.read_logged_job([line_id, *words])
    body = words[11] or words[12] or ""
    if job is None:
        text = _render_failure(line_id, custom_id, "failed", UNREADABLE, None)
        return RenderedLine(text, succeeded=False, log_bytes=len(body.encode()))
    log_bytes = len(body.encode())
    if job.state == "succeeded":
        response = {"status_code": 200, "request_id": job.id, "body": _render_job(job)}
        line = {"id": f"batch_req_{line_id}", "custom_id": custom_id, "response": response, "error": None}
        return RenderedLine(orjson.dumps(line) + b"\n", succeeded=True, log_bytes=log_bytes)
    error = orjson.loads(job.error or b"{}")
    response = {"status_code": error.get("status", 500), "request_id": job.id, "body": _render_job(job)}
    return RenderedLine(
        _render_failure(line_id, custom_id, job.state, error, response), succeeded=False, log_bytes=log_bytes
    )


def _render_failure(
    line_id: str, custom_id: str | None, state: str, error: dict[str, Any], response: dict[str, Any] | None
) -> bytes:
    code, message = BATCH_ERRORS.get(state, (error.get("code"), error.get("message")))
    shown = {"code": code, "message": message, "line": line_number(line_id)}
    text = {"id": f"batch_req_{line_id}", "custom_id": custom_id, "response": response, "error": shown}
    return orjson.dumps(text) + b"\n"


def _render_job(job: Job) -> dict[str, Any]:
    return {name: value for name, value in job_view(job).items() if name not in HIDDEN_FIELDS}
