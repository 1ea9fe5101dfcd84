"""Schemas of errors: problems of RFC 9457, those of `/predict`, and OpenAI's form."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.json_schema import JsonSchemaValue

from api.openapi.schemas.bodies import ResponseBody, without_nulls
from jobs.contract.errors import CODES


class ErrorFields(ResponseBody):
    """What any error may have beside its code and message. Single errors have further fields."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def _change_schema(cls, schema: JsonSchemaValue) -> None:
        super()._change_schema(schema)
        without_nulls(schema)

    allowed: list[Any] | None = None
    """The values that are allowed."""
    limit: float | None = None
    """The limit that was met."""
    limit_bytes: int | None = None
    limit_s: float | None = None
    param: str | None = None
    """The field that is at fault."""
    job: str | None = None
    """The id of the job that the error is about."""
    row: int | None = None
    """The index from 0 of the row or text that is at fault."""


Code = Annotated[str, Field(json_schema_extra={"enum": [*sorted(CODES)]}, description="Stable name of the error.")]


class JobError(ErrorFields):
    """Why a job failed, or was refused among others."""

    code: Code
    message: str
    """For people."""
    status: int | None = None
    """The HTTP status that stands for this code."""


class RefusedJob(ResponseBody):
    """The entry of a job that was refused, among the jobs of one request."""

    error: JobError


class Problem(ErrorFields):
    """An error as RFC 9457 has it."""

    type: str
    """`urn:jitney:error:` and the code."""
    title: str
    """The name of the HTTP status."""
    status: int
    code: Code
    detail: str
    """For people: what was wrong, and what is allowed."""
    jobs: list[RefusedJob] | None = None
    """The error of each job, if a request of many jobs had none that was accepted."""

    example: ClassVar[dict[str, Any]] = {
        "type": "urn:jitney:error:invalid_request",
        "title": "Unprocessable Entity",
        "status": 422,
        "code": "invalid_request",
        "detail": 'field "lane" must be one of the allowed values',
        "allowed": ["interactive", "bulk"],
    }


class PredictProblem(Problem):
    """An error of `/predict`: a problem, with `success` as the classic Flask tutorial has it."""

    success: Literal[False]

    example: ClassVar[dict[str, Any]] = {"success": False, **Problem.example}


class OpenAIErrorFields(ErrorFields):
    """The fields of an error in OpenAI's form."""

    message: str
    type: str
    """The kind of error, such as `invalid_request_error`."""
    param: str | None
    code: Code


class OpenAIError(ResponseBody):
    """An error in OpenAI's form."""

    error: OpenAIErrorFields

    example: ClassVar[dict[str, Any]] = {
        "error": {
            "message": "purpose must be batch, not 'assistants'",
            "type": "invalid_request_error",
            "param": "purpose",
            "code": "invalid_request",
            "allowed": ["batch"],
        }
    }
