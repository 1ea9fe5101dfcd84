"""The webhook of a job as a caller writes it: the fields that are allowed, and the events that can be chosen."""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from jobs.contract.address_policy import Guard
from jobs.contract.errors import Refused
from jobs.contract.lifecycle import FINAL, State

# The type of the message → the end it tells of.
EVENTS: Final = {f"job.{state.value}": state for state in State if state in FINAL}
FIELDS: Final = ("url", "events", "headers")
MOST_HEADERS: Final = 10
MOST_NAME: Final = 64  # characters
MOST_VALUE: Final = 2048  # characters; a signed token fits
MOST_HEADER_BYTES: Final = 4096  # names and values of one webhook together
# Names that are ours or the connection's: the request is framed, signed and described by the service alone.
_OURS: Final = frozenset(
    (
        "connection",
        "date",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    )
)
_OUR_PREFIXES: Final = ("content-", "proxy-", "webhook-")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[!-~]([ -~]*[!-~])?")


def read(webhook: Any, guard: Guard) -> str:
    """Read a webhook, a URL or an object of `url`, `events` and `headers`, into its record. Raises Refused.

    The record: origin, URL and ends with spaces between; where there are headers, their JSON on a second line.
    """
    given: Any = {"url": webhook} if isinstance(webhook, str) else webhook
    if not isinstance(given, Mapping) or not set(given) <= set(FIELDS) or not isinstance(given.get("url"), str):
        message = 'field "webhook" must be a URL, or an object of url, events and headers'
        raise Refused("invalid_request", message, allowed=list(FIELDS))
    events = given.get("events", [])
    if not isinstance(events, list) or not all(isinstance(event, str) and event in EVENTS for event in events):
        message = 'field "webhook.events" must be a list of the allowed words; left out, all are told'
        raise Refused("invalid_request", message, allowed=list(EVENTS))
    headers = _headers(given.get("headers", {}))
    target = guard.target(given["url"])
    asked = " ".join([target.origin, target.url, *sorted({EVENTS[event] for event in events})])
    return f"{asked}\n{orjson.dumps(headers, option=orjson.OPT_SORT_KEYS).decode()}" if headers else asked


def _headers(given: Any) -> dict[str, str]:
    """Check the headers that a receiver wants to get; names in lower case. Raises Refused, without any value."""
    what = 'field "webhook.headers"'
    if not isinstance(given, Mapping) or not all(isinstance(value, str) for value in given.values()):
        raise Refused("invalid_request", f"{what} must be an object of strings", param="webhook.headers")
    if len(given) > MOST_HEADERS:
        raise Refused(
            "invalid_request", f"{what} may have {MOST_HEADERS} headers, and has {len(given)}", limit=MOST_HEADERS
        )
    headers: dict[str, str] = {}
    for name, value in given.items():
        lower = name.lower()
        if not _NAME.fullmatch(name) or len(name) > MOST_NAME:
            raise Refused("invalid_request", f"{what}: {name[:MOST_NAME]!r} is not the name of a header")
        if lower in _OURS or lower.startswith(_OUR_PREFIXES):
            raise Refused("invalid_request", f"{what}: {name} is set by the service, or belongs to the connection")
        if lower in headers:
            raise Refused("invalid_request", f"{what} names {name} twice")
        if not _VALUE.fullmatch(value) or len(value) > MOST_VALUE:
            allowed = f"1 to {MOST_VALUE} printable ASCII characters, without spaces at its ends"
            message = f"{what}: the value of {name} must be {allowed}"
            raise Refused("invalid_request", message, limit=MOST_VALUE)
        headers[lower] = value
    if (size := sum(len(name) + len(value) for name, value in headers.items())) > MOST_HEADER_BYTES:
        raise Refused(
            "invalid_request",
            f"{what} may have {MOST_HEADER_BYTES} bytes, and has {size}",
            limit_bytes=MOST_HEADER_BYTES,
        )
    return headers
