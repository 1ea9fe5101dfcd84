"""Polls `/readyz` and prints on stdout when a model is served, with a command to try.

The supervisor calls it every 50 ms, so it never blocks.
"""

import json
import select
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from cli.serve.start_errors import print_line

SAMPLE = Path("samples/digits/7_01.png")
POLL_TIMEOUT_S = 120.0
REASON_INTERVAL_S = 10.0
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class ReadyLine:
    """Polls /readyz, one request at a time, until it names a ready model."""

    def __init__(self, host: str, port: int, started_at: float, are_ready: Callable[[], bool] = lambda: True) -> None:
        """Create the poller.

        `started_at`: the start of the printed duration, in seconds since the epoch.
        `are_ready` returns whether all gateways behind the port answer: one request reaches only one of them.
        """
        self._host, self._port = _LOOPBACK.get(host, host), port
        self._started_at, self._are_gateways_ready = started_at, are_ready
        self._connection: HTTPConnection | None = None
        self._served: list[str] = []
        self._poll_deadline = time.monotonic() + POLL_TIMEOUT_S
        self._next_reason_at = time.monotonic() + REASON_INTERVAL_S
        self._reason, self._printed_reason = "the gateway does not answer yet", ""

    @property
    def url(self) -> str:
        """The URL of the gateway for clients on this machine."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def tick(self) -> bool:
        """Send a request or check for its response; return False once polling is over."""
        if self._is_ready_response():
            self.close()
            self._print_ready()
            return False
        now = time.monotonic()
        if now >= self._poll_deadline:
            hint = f"It is still starting; see {self.url}/readyz"
            print_line(f"not ready after {POLL_TIMEOUT_S:g} s: {self._reason}. {hint}")
            self.close()
            return False
        if now >= self._next_reason_at and self._reason != self._printed_reason:
            self._next_reason_at, self._printed_reason = now + REASON_INTERVAL_S, self._reason
            print_line(f"not ready yet: {self._reason}")
        return True

    def close(self) -> None:
        """Drop the request in progress, if any."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _is_ready_response(self) -> bool:
        if not self._are_gateways_ready():
            return False
        try:
            if self._connection is None:
                self._connection = HTTPConnection(self._host, self._port, timeout=1.0)
                self._connection.request("GET", "/readyz")
            # The backlog accepts the request while the gateway still loads: the response may take seconds.
            if not select.select([self._connection.sock], [], [], 0)[0]:
                return False
            response = self._connection.getresponse()
            body = response.read().decode(errors="replace").strip()
        except (OSError, HTTPException) as error:
            self._reason = f"the gateway does not answer ({error or type(error).__name__})"
            self.close()
            return False
        self.close()
        self._reason = f"/readyz returned {response.status}: {body[:500]}"
        if response.status != 200:
            return False
        try:
            states = json.loads(body)["models"]
            self._served = [name for name, state in states.items() if state == "ready"]
        except (ValueError, TypeError, KeyError, AttributeError):  # /readyz without a list of models
            return True
        return bool(self._served)

    def _example(self) -> str:
        """Return curl arguments of a working request: a sample for the digits model, or the list of models."""
        if not SAMPLE.exists() or "digits" not in self._served:
            return f"{self.url}/v1/models"
        model = "" if self._served == ["digits"] else " -F model=digits"
        return f"-X POST -F image=@{SAMPLE}{model} {self.url}/predict"

    def _print_ready(self) -> None:
        duration_s = max(0.0, time.time() - self._started_at)
        with suppress(OSError):  # stdout may be closed
            print(f"Jitney is ready in {duration_s:.1f} s: {self.url}", flush=True)
            print(f"  try: curl {self._example()}", flush=True)
