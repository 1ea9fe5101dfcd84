"""Joins the writes of one event loop iteration into one system call; keeps reading paused while bytes are held back.

Two writes for head and body would mean two system calls and an extra wake-up of the caller, which cost more than all
other work of a gateway for a small job.
"""

import asyncio
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl


class SingleWriteTransport:
    """A transport that joins the writes of one event loop iteration, and delegates everything else."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._parts: list[bytes] = []
        # Called for every request, so not through __getattr__.
        self.is_closing, self.get_write_buffer_size = transport.is_closing, transport.get_write_buffer_size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data together with the other writes of this loop iteration."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def write_and_flush(self, data: bytes) -> None:
        """Send data at once, together with earlier writes."""
        self._parts.append(data)
        self._flush()

    def write_eof(self) -> None:
        """Close the write side once all data is sent."""
        self._flush()
        if not self._transport.is_closing():
            with suppress(OSError):  # the peer is gone already
                self._transport.write_eof()

    def close(self) -> None:
        """Close the connection once all data is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))


class HoldingFlowControl(FlowControl):
    """uvicorn's flow control, which does not resume reading while bytes of the next request are held back."""

    is_held = False

    def resume_reading(self) -> None:
        if not self.is_held:
            super().resume_reading()
