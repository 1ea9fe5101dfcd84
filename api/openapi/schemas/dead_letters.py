"""Schemas of dead letters: one, a page, and the results of replaying and purging."""

from typing import Any, ClassVar

from api.openapi.schemas.bodies import ResponseBody
from api.openapi.schemas.jobs import JOB_ID, Job, ListedJob
from jobs.contract.job import Kind


class DeadLetterUrls(ResponseBody):
    """Paths of a dead letter's routes."""

    self: str
    input: str
    replay: str
    job: str


class DeadLetter(ListedJob):
    """A failed job that is kept with its input."""

    output: dict[str, Any] | None
    tenant: str
    kind: Kind
    """The kind of its input."""
    parameters: dict[str, Any]
    input_bytes: int
    kills: int
    """Runs that killed their worker with this job."""
    losses: int
    """Workers that were lost with this job, for no known reason."""
    retries: int
    replayed_as: str | None
    """The job that a replay made."""
    urls: DeadLetterUrls  # type: ignore[assignment]

    example: ClassVar[dict[str, Any]] = {
        **Job.example,
        "status": "failed",
        "output": None,
        "error": {"code": "inference_failed", "message": "the model could not run this input", "status": 422},
        "tenant": "acme",
        "kind": "image",
        "parameters": {},
        "input_bytes": 312,
        "kills": 0,
        "losses": 0,
        "retries": 2,
        "replayed_as": None,
        "urls": {
            "self": f"/v1/deadletters/{JOB_ID}",
            "input": f"/v1/deadletters/{JOB_ID}/input",
            "replay": f"/v1/deadletters/{JOB_ID}/replay",
            "job": f"/v1/jobs/{JOB_ID}",
        },
    }


class DeadLetterList(ResponseBody):
    """A page of dead letters. It may be short or empty although `next_cursor` is set."""

    deadletters: list[DeadLetter]
    next_cursor: str | None

    example: ClassVar[dict[str, Any]] = {"deadletters": [DeadLetter.example], "next_cursor": None}


class ReplayStop(ResponseBody):
    """Why a replay of many stopped. Retry-After says when to go on."""

    code: str
    detail: str


class ReplayedDeadLetters(ResponseBody):
    """What became of the dead letters that match a filter."""

    replayed: int
    skipped: int
    """Dead letters that were replayed before."""
    refused: dict[str, int]
    """The number of refused ones by error code."""
    more: bool
    """True: call again with `next_cursor`."""
    next_cursor: str | None
    stopped: ReplayStop | None

    example: ClassVar[dict[str, Any]] = {
        "replayed": 12,
        "skipped": 1,
        "refused": {"body_too_large": 1},
        "more": False,
        "next_cursor": None,
        "stopped": None,
    }


class PurgedDeadLetter(ResponseBody):
    """The number of dead letters that were removed."""

    purged: int

    example: ClassVar[dict[str, Any]] = {"purged": 1}


class PurgedDeadLetters(PurgedDeadLetter):
    """The number of dead letters that were removed, and whether more match the filter."""

    more: bool
    next_cursor: str | None

    example: ClassVar[dict[str, Any]] = {"purged": 14, "more": False, "next_cursor": None}
