"""Counts the bytes of request bodies that this process holds, so that no number of uploads can use up its memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from jobs.errors import QueueFull

RETRY_AFTER_S: Final = 1


class Bodies:
    """All bodies from their first byte until their jobs lie in the queue."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    @contextmanager
    def hold(self) -> Iterator["Body"]:
        """Begin to hold one body."""
        body = Body(self)
        try:
            yield body
        finally:
            self.held_bytes -= body.size_bytes

    def check(self, more_bytes: int) -> None:
        """Raise QueueFull where there is no room for so many bytes more."""
        if self.held_bytes + more_bytes > self._limit_bytes:
            message = f"this gateway holds {self.held_bytes} bytes of request bodies, and may hold {self._limit_bytes}"
            raise QueueFull(message, limit_bytes=self._limit_bytes, retry_after_s=RETRY_AFTER_S)


class Body:
    """One body as it arrives."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.size_bytes = 0

    def expect(self, size_bytes: int) -> None:
        """Raise QueueFull where there is no room for a body of this size."""
        self._bodies.check(size_bytes)

    def grow(self, more_bytes: int) -> None:
        """Take in bytes that came; raises QueueFull."""
        self._bodies.check(more_bytes)
        self.size_bytes += more_bytes
        self._bodies.held_bytes += more_bytes
