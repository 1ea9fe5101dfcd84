"""Job request as a caller sends it: parses JSON and text fields and checks their types, independent of the model."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from jobs.contract.base64_reader import read_base64_or_url
from jobs.contract.errors import JitneyError, Refused, to_jitney_error
from jobs.contract.input_fields import INPUT_FIELDS, check_no_rows, encode_text, is_input, read_row_count
from jobs.contract.job import LANES
from jobs.contract.json_reader import read_json, read_object, require_object

log = logging.getLogger("jitney.jobs")

JSON_FIELDS: Final = ("model", "input", "parameters", "lane", "deadline_ms", "metadata", "webhook", "rows")
MAX_METADATA: Final = 16
MAX_METADATA_TEXT: Final = 512
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class JobRequest(NamedTuple):
    """A job request. Exactly one of image, audio, tensors, raw, fields and text is set.

    `raw`: bytes that may be an image, audio or a tensor. `tensors`: a JSON tensor, or a Tensor, by name.
    `fields`: an `input` object that stays JSON (jobs/contract/input_fields.py). `text`: in UTF-8.
    `webhook` is unchecked; jobs/contract/webhook_request.py validates it. `rows`: the input has this many rows.
    """

    model: str = ""
    image: bytes | None = None
    tensors: Mapping[str, Any] | None = None
    raw: bytes | None = None
    parameters: Mapping[str, Any] = _NONE
    lane: str = "interactive"
    deadline_ms: int | None = None
    metadata: Mapping[str, str] = _NONE
    webhook: Any = None
    rows: int | None = None
    fields: Mapping[str, Any] | None = None
    text: bytes | None = None
    audio: bytes | None = None
    version: str = ""  # that the caller asks for; "": the one that the rollout plan chooses
    card: Mapping[str, Any] | None = None  # of the version, if it is chosen already


def read_json_fields(fields: Mapping[str, Any], model: str = "", lane: str = "interactive") -> JobRequest:
    """Read the fields of a JSON job. `model` and `lane` are defaults for absent fields. Raises Refused."""
    if unknown := [name for name in fields if name not in JSON_FIELDS]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(JSON_FIELDS))
    job_input = fields.get("input")
    if not isinstance(job_input, dict) or not is_input(job_input):
        message = 'field "input" must be an object with one of the allowed fields, or with "query" and "documents"'
        raise Refused("invalid_request", message, allowed=list(INPUT_FIELDS))
    named = fields.get("model", "")
    job_request = check_fields(
        JobRequest(
            model=model if named == "" else named,
            parameters=fields.get("parameters", {}),
            lane=fields.get("lane", lane),
            deadline_ms=fields.get("deadline_ms"),
            metadata=fields.get("metadata", {}),
            webhook=fields.get("webhook"),
            rows=fields.get("rows"),
        )
    )
    if "image" in job_input:
        return job_request._replace(image=_base64("image", job_input["image"]))
    if "audio" in job_input:
        return job_request._replace(audio=_base64("audio", job_input["audio"]))
    if "bytes" in job_input:
        return job_request._replace(raw=_base64("bytes", job_input["bytes"]))
    if "text" in job_input:
        check_no_rows(job_request.rows, "text")
        return job_request._replace(text=encode_text(job_input["text"], 'field "input.text"'))
    if "tensors" not in job_input:
        return job_request._replace(fields=job_input, rows=read_row_count(job_input, job_request.rows))
    if isinstance(job_input["tensors"], dict):
        return job_request._replace(tensors=job_input["tensors"])
    raise Refused("invalid_request", 'field "input.tensors" must be an object of named tensors')


def check_fields(job_request: JobRequest) -> JobRequest:
    """Return the request if its fields have valid types. Raises Refused."""
    if not isinstance(job_request.model, str):
        raise Refused("invalid_request", 'field "model" must be a string')
    if not isinstance(job_request.parameters, dict):
        raise Refused("invalid_request", 'field "parameters" must be an object')
    if job_request.lane not in LANES:
        raise Refused("invalid_request", 'field "lane" must be one of the allowed values', allowed=list(LANES))
    deadline = job_request.deadline_ms
    if deadline is not None and (not isinstance(deadline, int) or isinstance(deadline, bool) or deadline < 1):
        raise Refused("invalid_request", "deadline_ms must be a whole number of milliseconds, at least 1")
    rows = job_request.rows
    if rows is not None and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 1):
        raise Refused("invalid_request", "rows must be a whole number, at least 1")
    metadata = job_request.metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused("invalid_request", 'field "metadata" must be an object of strings')
    if len(metadata) > MAX_METADATA or any(len(k) + len(v) > MAX_METADATA_TEXT for k, v in metadata.items()):
        message = f"metadata may have {MAX_METADATA} pairs of at most {MAX_METADATA_TEXT} characters each"
        raise Refused("invalid_request", message, limit=MAX_METADATA)
    return job_request


def _base64(name: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise Refused("invalid_request", f'field "input.{name}" must be base64 text or a data: URL')
    return read_base64_or_url(text, f'field "input.{name}"')


def read_text_fields(fields: Mapping[str, str]) -> JobRequest:
    """Read the fields of a request that is not JSON, as text. Raises Refused."""
    deadline = _whole_number(fields, "deadline_ms", "a whole number of milliseconds")
    return check_fields(
        JobRequest(
            model=fields.get("model", ""),
            parameters=read_object(fields.get("parameters", "{}"), "parameters"),
            lane=fields.get("lane", "interactive"),
            deadline_ms=deadline,
            metadata=read_object(fields.get("metadata", "{}"), "metadata"),
            webhook=_webhook(fields.get("webhook")),
            rows=_whole_number(fields, "rows", "a whole number, at least 1"),
        )
    )


def _whole_number(fields: Mapping[str, str], name: str, what: str) -> int | None:
    text = fields.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise Refused("invalid_request", f"{name} must be {what}")
    return int(text)


def _webhook(text: str | None) -> Any:
    """Parse a webhook given as text: a URL, or a JSON object."""
    return read_json(text, "webhook") if text and text.startswith("{") else text


def read_json_job(what: str, value: Any, model: str, lane: str) -> JobRequest | JitneyError:
    """Read one of several jobs, as JSON text or parsed. Return its error if it is invalid."""
    try:
        fields = read_json(value, what) if isinstance(value, bytes) else value
        return read_json_fields(require_object(fields, what), model, lane)
    except Refused as error:
        return error
    except Exception as error:
        log.exception("%s of a request failed unexpectedly", what)
        return to_jitney_error(error)
