"""Asks the gateway whether a model is served, and says so on stdout, with the command to try.

Never blocks: it is called between other things, every 50 ms.
"""

import json
import select
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from cli.serve.supervisor import print_line

SAMPLE = Path("samples/digits/7_01.png")
POLL_TIMEOUT_S = 120.0
REASON_INTERVAL_S = 10.0
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class ReadyLine:
    """One question to /readyz at a time, until the answer names a model that is served."""

    def __init__(self, host: str, port: int, started_at: float, are_ready: Callable[[], bool] = lambda: True) -> None:
        """`started_at` in seconds since the epoch: what the printed time counts from.

        `are_ready`: whether all gateways behind the port answer; only one of them can be asked.
        """
        self._host, self._port = _LOOPBACK.get(host, host), port
        self._started_at, self._are_up = started_at, are_ready
        self._connection: HTTPConnection | None = None
        self._served: list[str] = []
        self._poll_deadline = time.monotonic() + POLL_TIMEOUT_S
        self._next_reason_at = time.monotonic() + REASON_INTERVAL_S
        self._why, self._said = "the gateway does not answer yet", ""

    @property
    def url(self) -> str:
        """The gateway as a browser on this machine reaches it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def tick(self) -> bool:
        """Ask or look for the answer; False once there is nothing more to ask."""
        if self._is_ready_response():
            self.close()
            self._print_ready()
            return False
        now = time.monotonic()
        if now >= self._poll_deadline:
            print_line(
                f"still not ready after {POLL_TIMEOUT_S:g} s: {self._why}. Still starting; see {self.url}/readyz"
            )
            self.close()
            return False
        if now >= self._next_reason_at and self._why != self._said:
            self._next_reason_at, self._said = now + REASON_INTERVAL_S, self._why
            print_line(f"not ready yet: {self._why}")
        return True

    def close(self) -> None:
        """Drop the question that waits for its answer, if any."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _is_ready_response(self) -> bool:
        if not self._are_up():
            return False
        try:
            if self._connection is None:
                self._connection = HTTPConnection(self._host, self._port, timeout=1.0)
                self._connection.request("GET", "/readyz")
            # The backlog takes the question while the gateway still loads: the answer may be seconds away.
            if not select.select([self._connection.sock], [], [], 0)[0]:
                return False
            answer = self._connection.getresponse()
            body = answer.read().decode(errors="replace").strip()
        except (OSError, HTTPException) as error:
            self._why = f"the gateway does not answer ({error or type(error).__name__})"
            self.close()
            return False
        self.close()
        self._why = f"/readyz answers {answer.status}: {body[:500]}"
        if answer.status != 200:
            return False
        try:
            states = json.loads(body)["models"]
            self._served = [name for name, state in states.items() if state == "ready"]
        except (ValueError, TypeError, KeyError, AttributeError):  # it says nothing of models
            return True
        return bool(self._served)

    def _example(self) -> str:
        """A request that works: the bundled digit where its model is served, named where it is one of several."""
        if not SAMPLE.exists() or "digits" not in self._served:
            return f"{self.url}/v1/models"
        named = "" if self._served == ["digits"] else " -F model=digits"
        return f"-X POST -F image=@{SAMPLE}{named} {self.url}/predict"

    def _print_ready(self) -> None:
        took_s = max(0.0, time.time() - self._started_at)
        with suppress(OSError):  # nobody has to read it
            print(f"Jitney is ready in {took_s:.1f} s: {self.url}", flush=True)
            print(f"  try: curl {self._example()}", flush=True)
