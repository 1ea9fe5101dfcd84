"""Wraps the asyncio transport: joins the writes of one loop turn, and pauses reading while bytes are held back.

Head and body in two writes would be two calls to the system, which with the caller's extra wake-up cost more than all
that a gateway itself does for a small job.
"""

import asyncio
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl


class SingleWriteTransport:
    """A transport that sends what was written in one turn of the event loop together; all else passes straight on."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._parts: list[bytes] = []
        # Asked for every request, so not through __getattr__.
        self.is_closing, self.get_write_buffer_size = transport.is_closing, transport.get_write_buffer_size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it with what else is written in this turn."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def write_and_flush(self, answer: bytes) -> None:
        """Send it at once: nothing follows that belongs to it."""
        self._parts.append(answer)
        self._flush()

    def write_eof(self) -> None:
        """Say, once everything is sent, that nothing more will be."""
        self._flush()
        if not self._transport.is_closing():
            with suppress(OSError):  # the other side is gone already
                self._transport.write_eof()

    def close(self) -> None:
        """Close once everything is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))


class HoldingFlowControl(FlowControl):
    """uvicorn's flow control, which does not read on while bytes of a next request are held back."""

    is_held = False

    def resume_reading(self) -> None:
        """Read on, unless bytes are held back."""
        if not self.is_held:
            super().resume_reading()
