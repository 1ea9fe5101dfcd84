"""A job as a caller asks for it, read from JSON into one shape: a draft. Knows formats, not models."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from jobs.contract.base64_reader import read_base64_or_url
from jobs.contract.errors import JitneyError, Refused, contain
from jobs.contract.job import LANES
from jobs.contract.json_reader import as_object, read_json, read_object

log = logging.getLogger("jitney.jobs")

JSON_FIELDS: Final = ("model", "input", "parameters", "lane", "deadline_ms", "metadata", "webhook")
MAX_METADATA: Final = 16
MAX_METADATA_TEXT: Final = 512
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class Draft(NamedTuple):
    """A job as a caller asks for it. Exactly one of image, tensors and raw is given; raw may turn out an image.

    `webhook` is as it came: what it says is checked by jobs/contract/webhook_request.py.
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


def from_fields(fields: Mapping[str, Any], model: str = "", lane: str = "interactive") -> Draft:
    """Read the fields of a JSON job; `model` and `lane` stand where it names none. Raises Refused."""
    if unknown := [name for name in fields if name not in JSON_FIELDS]:
        raise Refused("invalid_request", f"unknown field {unknown[0][:80]!r}", allowed=list(JSON_FIELDS))
    given = fields.get("input")
    if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in ("image", "tensors"):
        message = 'field "input" must be an object with one of the allowed fields'
        raise Refused("invalid_request", message, allowed=["image", "tensors"])
    named = fields.get("model", "")
    draft = checked(
        Draft(
            model=model if named == "" else named,
            parameters=fields.get("parameters", {}),
            lane=fields.get("lane", lane),
            deadline_ms=fields.get("deadline_ms"),
            metadata=fields.get("metadata", {}),
            webhook=fields.get("webhook"),
        )
    )
    if "image" in given:
        return draft._replace(image=_base64(given["image"]))
    if isinstance(given["tensors"], dict):
        return draft._replace(tensors=given["tensors"])
    raise Refused("invalid_request", 'field "input.tensors" must be an object of named tensors')


def checked(draft: Draft) -> Draft:
    """Give the draft if its fields are of the right kind; raises Refused."""
    if not isinstance(draft.model, str):
        raise Refused("invalid_request", 'field "model" must be a string')
    if not isinstance(draft.parameters, dict):
        raise Refused("invalid_request", 'field "parameters" must be an object')
    if draft.lane not in LANES:
        raise Refused("invalid_request", 'field "lane" must be one of the allowed words', allowed=list(LANES))
    deadline = draft.deadline_ms
    if deadline is not None and (not isinstance(deadline, int) or isinstance(deadline, bool) or deadline < 1):
        raise Refused("invalid_request", "deadline_ms must be a whole number of milliseconds, at least 1")
    metadata = draft.metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused("invalid_request", 'field "metadata" must be an object of strings')
    if len(metadata) > MAX_METADATA or any(len(k) + len(v) > MAX_METADATA_TEXT for k, v in metadata.items()):
        message = f"metadata takes {MAX_METADATA} pairs of at most {MAX_METADATA_TEXT} characters each"
        raise Refused("invalid_request", message, limit=MAX_METADATA)
    return draft


def _base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise Refused("invalid_request", 'field "input.image" must be base64 text or a data: URL')
    return read_base64_or_url(text, 'field "input.image"')


def from_text_fields(fields: Mapping[str, str]) -> Draft:
    """Read the fields that doors without JSON give as text."""
    deadline = fields.get("deadline_ms")
    if deadline is not None and not (deadline.isascii() and deadline.isdigit() and len(deadline) < 12):
        raise Refused("invalid_request", "deadline_ms must be a whole number of milliseconds")
    return checked(
        Draft(
            model=fields.get("model", ""),
            parameters=read_object(fields.get("parameters", "{}"), "parameters"),
            lane=fields.get("lane", "interactive"),
            deadline_ms=None if deadline is None else int(deadline),
            metadata=read_object(fields.get("metadata", "{}"), "metadata"),
            webhook=_webhook(fields.get("webhook")),
        )
    )


def _webhook(text: str | None) -> Any:
    """Read a webhook that is given as text: a URL, or an object in JSON."""
    return read_json(text, "webhook") if text and text.startswith("{") else text


def read_one(what: str, value: Any, model: str, lane: str) -> Draft | JitneyError:
    """Read one of several jobs, parsed or not; gives its error where it has one."""
    try:
        fields = read_json(value, what) if isinstance(value, bytes) else value
        return from_fields(as_object(fields, what), model, lane)
    except Refused as error:
        return error
    except Exception as error:
        log.exception("%s of a request failed unexpectedly", what)
        return contain(error)
