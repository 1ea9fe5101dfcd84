"""Webhook of a job request: parses and validates its URL, events and headers."""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from jobs.contract.address_policy import AddressPolicy
from jobs.contract.errors import Refused
from jobs.contract.lifecycle import FINAL, State

# event type → final state that triggers it
WEBHOOK_EVENTS: Final = {f"job.{state.value}": state for state in State if state in FINAL}
FIELDS: Final = ("url", "events", "headers")
MAX_HEADERS: Final = 10
MAX_NAME_CHARS: Final = 64
MAX_VALUE_CHARS: Final = 2048  # fits a signed token
MAX_HEADER_BYTES: Final = 4096  # names and values of one webhook together
# Headers that the service or the connection sets.
_RESERVED_HEADERS: Final = frozenset(
    ("connection", "date", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
) | {"user-agent"}
_RESERVED_PREFIXES: Final = ("content-", "proxy-", "webhook-")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[!-~]([ -~]*[!-~])?")


def read_webhook(webhook: Any, address_policy: AddressPolicy) -> str:
    """Validate a webhook (a URL, or an object of `url`, `events` and `headers`) and return its record. Raises Refused.

    The record: origin, URL and states, separated by spaces; if there are headers, their JSON on a second line.
    """
    fields: Any = {"url": webhook} if isinstance(webhook, str) else webhook
    if not isinstance(fields, Mapping) or not set(fields) <= set(FIELDS) or not isinstance(fields.get("url"), str):
        message = 'field "webhook" must be a URL, or an object of url, events and headers'
        raise Refused("invalid_request", message, allowed=list(FIELDS))
    events = fields.get("events", [])
    if not isinstance(events, list) or not all(isinstance(event, str) and event in WEBHOOK_EVENTS for event in events):
        message = 'field "webhook.events" must be a list of allowed values; without it, all events are sent'
        raise Refused("invalid_request", message, allowed=list(WEBHOOK_EVENTS))
    headers = _headers(fields.get("headers", {}))
    target = address_policy.target(fields["url"])
    record = " ".join([target.origin, target.url, *sorted({WEBHOOK_EVENTS[event] for event in events})])
    return f"{record}\n{orjson.dumps(headers, option=orjson.OPT_SORT_KEYS).decode()}" if headers else record


def _headers(fields: Any) -> dict[str, str]:
    """Validate the headers and return them with names in lower case. Error messages never contain a value."""
    what = 'field "webhook.headers"'
    if not isinstance(fields, Mapping) or not all(isinstance(value, str) for value in fields.values()):
        raise Refused("invalid_request", f"{what} must be an object of strings", param="webhook.headers")
    if len(fields) > MAX_HEADERS:
        raise Refused(
            "invalid_request", f"{what} may have {MAX_HEADERS} headers, and has {len(fields)}", limit=MAX_HEADERS
        )
    headers: dict[str, str] = {}
    for name, value in fields.items():
        lower = name.lower()
        if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
            raise Refused("invalid_request", f"{what}: {name[:MAX_NAME_CHARS]!r} is not the name of a header")
        if lower in _RESERVED_HEADERS or lower.startswith(_RESERVED_PREFIXES):
            raise Refused("invalid_request", f"{what}: {name} is set by the service, or belongs to the connection")
        if lower in headers:
            raise Refused("invalid_request", f"{what} names {name} twice")
        if not _VALUE.fullmatch(value) or len(value) > MAX_VALUE_CHARS:
            allowed = f"1 to {MAX_VALUE_CHARS} printable ASCII characters, without spaces at its ends"
            message = f"{what}: the value of {name} must be {allowed}"
            raise Refused("invalid_request", message, limit=MAX_VALUE_CHARS)
        headers[lower] = value
    if (size := sum(len(name) + len(value) for name, value in headers.items())) > MAX_HEADER_BYTES:
        raise Refused(
            "invalid_request", f"{what} may have {MAX_HEADER_BYTES} bytes, and has {size}", limit_bytes=MAX_HEADER_BYTES
        )
    return headers
