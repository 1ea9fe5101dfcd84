"""Says once that the queue's server is away, and once that it is back: an outage is two lines, not two a second."""

import logging
import time


class Outage:
    """What one loop knows of the server. `what` completes "can not ..."."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log, self._what = log, what
        self._since: float | None = None

    def began(self, error: Exception) -> None:
        """Note a failure."""
        if self._since is None:
            self._since = time.monotonic()
            self._log.warning("can not %s, trying again: %s", self._what, error)

    def ended(self) -> None:
        """Note a success."""
        if self._since is not None:
            self._log.info("can %s again, after %.1f s", self._what, time.monotonic() - self._since)
            self._since = None
