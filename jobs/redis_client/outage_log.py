"""Logs the start and the end of an outage once each, instead of every failed attempt."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from jobs.contract.errors import StoreUnavailable

SAME_OUTAGE_S: Final = 1.0


class OutageLog:
    """Tracks one dependency of a loop or connection. `what` completes the sentence "cannot …"."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log, self._what = log, what
        self._since: float | None = None
        self._ended_at = -SAME_OUTAGE_S
        self._level = logging.WARNING

    def began(self, error: Exception) -> None:
        """Record a failure; log it if it starts an outage.

        StoreUnavailable is logged at DEBUG: the connection itself already warns once for the whole process.
        """
        if self._since is None:
            self._since = time.monotonic()
            # Short recoveries within an outage do not start a new one.
            is_quiet = isinstance(error, StoreUnavailable) or self._since - self._ended_at < SAME_OUTAGE_S
            self._level = logging.DEBUG if is_quiet else logging.WARNING
            self._log.log(self._level, "cannot %s, trying again: %s", self._what, error)

    def ended(self) -> None:
        """Record a success; log it if it ends an outage."""
        if self._since is not None:
            self._ended_at = time.monotonic()
            level = logging.INFO if self._level == logging.WARNING else logging.DEBUG
            self._log.log(level, "can %s again, after %.1f s", self._what, self._ended_at - self._since)
            self._since = None

    @contextmanager
    def suppress(self) -> Iterator[None]:
        """Suppress StoreUnavailable in a block, and log the outage; a block without it ends the outage."""
        try:
            yield
        except StoreUnavailable as error:
            self.began(error)
        else:
            self.ended()

    async def retry(self, call: Callable[[], Awaitable[None]], pause_s: float) -> None:
        """Call again, after a pause each time, until the call does not raise StoreUnavailable."""
        while True:
            with self.suppress():
                return await call()
            await asyncio.sleep(pause_s)
