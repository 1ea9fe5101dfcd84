"""Maps errors to gRPC's status codes and trailing metadata."""

import math
from collections.abc import Mapping
from typing import Final

from grpc import StatusCode

from jobs.contract.errors import JitneyError

Metadata = tuple[tuple[str, str], ...]

MAX_DETAILS_CHARS: Final = 2000  # a client accepts 8 KiB of metadata
# By the HTTP status of an error. 503 tells clients that a retry is safe and may help; 429 is the caller's own limit.
BY_STATUS: Final[Mapping[int, StatusCode]] = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    405: StatusCode.UNIMPLEMENTED,
    406: StatusCode.INVALID_ARGUMENT,
    408: StatusCode.DEADLINE_EXCEEDED,
    409: StatusCode.FAILED_PRECONDITION,
    410: StatusCode.NOT_FOUND,
    413: StatusCode.INVALID_ARGUMENT,
    415: StatusCode.INVALID_ARGUMENT,
    422: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    431: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
    507: StatusCode.RESOURCE_EXHAUSTED,
}
# Codes for which gRPC has a better one than HTTP.
BY_CODE: Final[Mapping[str, StatusCode]] = {
    "route_not_found": StatusCode.UNIMPLEMENTED,
    "canceled": StatusCode.CANCELLED,
    "body_too_large": StatusCode.RESOURCE_EXHAUSTED,
    "resource_exhausted": StatusCode.RESOURCE_EXHAUSTED,
    "output_too_large": StatusCode.RESOURCE_EXHAUSTED,
    "inference_failed": StatusCode.INTERNAL,
    "unreadable_job": StatusCode.INTERNAL,
    "poison": StatusCode.INTERNAL,
    "too_many_attempts": StatusCode.INTERNAL,
}


def status_code(error: JitneyError) -> StatusCode:
    """Return the status code for an error."""
    return BY_CODE.get(error.code) or BY_STATUS[error.status]


def details_of(error: JitneyError) -> str:
    return error.message[:MAX_DETAILS_CHARS]


def trailing_metadata(error: JitneyError) -> Metadata:
    """Return `jitney-code`, and when to retry: for people, and as gRPC's own retries read it."""
    retry_after_s = error.details.get("retry_after_s")
    code = ("jitney-code", error.code)
    if retry_after_s is None:
        return (code,)
    seconds = math.ceil(retry_after_s)
    return (code, ("retry-after", str(seconds)), ("grpc-retry-pushback-ms", str(seconds * 1000)))
