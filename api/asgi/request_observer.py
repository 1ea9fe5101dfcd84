"""Observes each request that ends: counts it, writes the access log, and names it for the caller and the log.

A request's id is the one of its `X-Request-ID`, or else the id of the job that it submits, or else a new one.
"""

import itertools
import logging
import re
import secrets
from typing import Any, Final, Protocol

from jobs.config.logs import fields

log = logging.getLogger("jitney.access")

REQUEST_ID: Final = re.compile(rb"[!-~]{1,128}")
HUNG_UP: Final = 499  # status of a request whose caller disconnected before the response was complete
UNMATCHED: Final = "unmatched"  # route of a path that does not exist, and of a head that cannot be read


class RequestCounter(Protocol):
    """Counts requests (api/metrics/process_counters.py)."""

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""


class RequestObserver:
    """The observer of all connections of a gateway."""

    def __init__(self, counter: RequestCounter | None = None, *, writes_log: bool = False) -> None:
        self._counter, self._writes_log = counter, writes_log
        self._prefix, self._numbers = secrets.token_hex(6).encode(), itertools.count(1)

    def id_of(self, scope: Any) -> bytes:
        """Return the id of a request, a new one if it has none yet."""
        request_id: bytes = scope["request_id"]
        if not request_id:
            request_id = scope["request_id"] = b"%b-%x" % (self._prefix, next(self._numbers))
        return request_id

    def id_field(self, scope: Any) -> bytes:
        """Return the encoded header field with the id of a request."""
        return b"x-request-id: %b\r\n" % self.id_of(scope)

    def ended(self, scope: Any, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        route = scope.get("route", UNMATCHED)
        if route.__class__ is not str:  # FastAPI's
            route = route.path
        if self._counter is not None:
            self._counter.observe("" if route is UNMATCHED else scope["method"], route, status, seconds)
        if self._writes_log:
            self._log(scope, status, seconds)

    def refused(self, cycle: Any, status: int) -> bytes:
        """Count a request that the connection refuses; return the encoded header field with its id.

        `cycle`: of the request if its head was read, otherwise that of the request before, which has been counted.
        """
        if cycle is not None and not cycle.is_observed:
            cycle.observe(status)
            return self.id_field(cycle.scope)
        scope: dict[str, Any] = {"request_id": b"", "method": "", "path": ""}
        self.ended(scope, status, 0.0)
        return self.id_field(scope)

    def _log(self, scope: Any, status: int, seconds: float) -> None:
        caller = scope.get("caller")
        details = {
            "method": scope["method"],
            "path": scope["path"],  # without the query, which may hold secrets
            "status": status,
            "ms": round(seconds * 1000, 3),
            "tenant": caller.tenant if caller else None,
            "request_id": self.id_of(scope).decode(),
        }
        log.info("request", extra=fields(details))
