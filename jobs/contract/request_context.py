"""The context of the request that a job comes from: the id that the caller gave it, and its place in a trace.

The place is what the header `traceparent` of W3C Trace Context has. Both are kept on the job only if a caller gave
them, so that other jobs cost nothing more.
"""

import re
from contextvars import ContextVar
from typing import Final, NamedTuple

# version 00: trace id, parent id and flags; no part may be zero.
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class RequestContext(NamedTuple):
    """`request_id` and `traceparent` as they came, each empty if there was none."""

    request_id: str = ""
    traceparent: str = ""


# Of the jobs that the current task submits.
REQUEST_CONTEXT: Final[ContextVar[RequestContext | None]] = ContextVar("request_context", default=None)


def read_traceparent(header: str) -> str:
    """Return the value of a `traceparent` header; "" if it is not valid, which starts a new trace."""
    text = header.strip()
    return text if _TRACEPARENT.fullmatch(text) else ""
