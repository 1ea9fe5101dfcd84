"""Says once that something is away, and once that it is back: an outage is two lines, not two a second."""

import logging
import time
from typing import Final

from jobs.contract.errors import StoreUnavailable

SAME_OUTAGE_S: Final = 1.0


class OutageLog:
    """What one loop, or one connection, knows of what it needs. `what` completes "cannot ..."."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log, self._what = log, what
        self._since: float | None = None
        self._ended_at = -SAME_OUTAGE_S
        self._level = logging.WARNING

    def began(self, error: Exception) -> None:
        """Note a failure.

        The connection itself says that the queue's server is away, once for the whole process: a loop that fails by
        that (StoreUnavailable) says it at the level debug.
        """
        if self._since is None:
            self._since = time.monotonic()
            # What comes back for a moment only, again and again, is one outage.
            is_quiet = isinstance(error, StoreUnavailable) or self._since - self._ended_at < SAME_OUTAGE_S
            self._level = logging.DEBUG if is_quiet else logging.WARNING
            self._log.log(self._level, "cannot %s, trying again: %s", self._what, error)

    def ended(self) -> None:
        """Note a success."""
        if self._since is not None:
            self._ended_at = time.monotonic()
            level = logging.INFO if self._level == logging.WARNING else logging.DEBUG
            self._log.log(level, "can %s again, after %.1f s", self._what, self._ended_at - self._since)
            self._since = None
