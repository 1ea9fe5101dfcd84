"""Extends uvicorn's response cycle: a complete response in one write, HEAD as GET, early responses close.

Two writes for head and body would mean two system calls and an extra wake-up of the caller, which cost more than all
other work of a gateway for a small job. The ASGI extension is `jitney.answer`. It also avoids uvicorn's check of each
header by a pattern, which costs more than the write.

A response that is sent before its request was received closes the connection (`connection: close`).

The app receives HEAD as GET. Only the head is sent, with the Content-Length that GET would have.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

WHOLE_RESPONSE: Final = "jitney.answer"


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


class SingleWriteCycle(RequestResponseCycle):
    """A cycle that supports `jitney.answer`. Responses in parts are sent by uvicorn."""

    transport: SingleWriteTransport  # type: ignore[assignment]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._is_head = self.scope["method"] == "HEAD"
        if self._is_head:
            self.scope["method"] = "GET"
        self._is_read = False  # the app has received the whole body
        self.is_answered_early = False  # the response was sent before the request was received

    async def receive(self) -> Any:
        if self._is_read or self.more_body or self.disconnected or self.waiting_for_100_continue:
            return await super().receive()
        self._is_read = True
        body, self.body = bytes(self.body), bytearray()
        self.message_event.clear()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        if message["type"] != WHOLE_RESPONSE or self.response_started:
            await self._send_part(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.is_answered_early = self.more_body
        closes = self.is_answered_early or not self.keep_alive
        written = encode_head(message["status"], message["headers"], closes=closes)
        self.transport.write_and_flush(written if self._is_head else written + message["body"])
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def _send_part(self, message: Any) -> None:
        """Send a part of a response through uvicorn."""
        if self.more_body and not self.response_started:
            self.is_answered_early = True
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        if not self._is_head:
            await super().send(message)
        elif not self.response_complete:
            await self._send_head(message)
        if self.is_answered_early:
            self.keep_alive = True  # the protocol closes the connection later, so that the response is not lost

    async def _send_head(self, message: Any) -> None:
        """Send the head of a response in parts, and complete the response: a stream may never end."""
        await super().send(message)
        if self.disconnected:
            return
        self.keep_alive = self.keep_alive or self.is_answered_early
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def encode_head(status: int, headers: Sequence[tuple[bytes, bytes]], *, closes: bool) -> bytes:
    """Return the encoded head of a response; raises ValueError if a header contains a line break."""
    lines = [STATUS_LINE[status]]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"connection: close\r\n\r\n" if closes else b"\r\n")
    written = b"".join(lines)
    ends = len(headers) + 2 + closes
    if written.count(b"\n") != ends or written.count(b"\r") != ends:
        raise ValueError(f"a header field contains a line break: {headers!r}")
    return written
