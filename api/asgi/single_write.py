"""One request and its answer over uvicorn, where most is small: a body that is there already, an answer that is whole.

An answer of ours leaves as one ASGI message and in one write. That is an extension, `jitney.answer`: in uvicorn's own
two messages each name and value of a head is looked through by a pattern, which costs more than writing the answer.

An answer that leaves before its request has come to its end says `connection: close`: the rest is not read.

HEAD is GET for the app. Of the answer the head is sent, with the Content-Length that GET would have.
"""

from collections.abc import Sequence
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

WHOLE_RESPONSE: Final = "jitney.answer"


class SingleWriteCycle(RequestResponseCycle):
    """See above; whatever comes in parts goes uvicorn's way."""

    transport: Any  # api/asgi/protocol.py's, which knows what is whole

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._is_head = self.scope["method"] == "HEAD"
        if self._is_head:
            self.scope["method"] = "GET"
        self._is_read = False  # whether the app has the whole body
        self.is_answered_early = False  # answered before the request has come to its end

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
        written = encode_head(
            message["status"], message["headers"], closes=self.is_answered_early or not self.keep_alive
        )
        self.transport.write_and_flush(written if self._is_head else written + message["body"])
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def _send_part(self, message: Any) -> None:
        """Send a part of an answer, as uvicorn does."""
        if self.more_body and not self.response_started:
            self.is_answered_early = True
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        if not self._is_head:
            await super().send(message)
        elif not self.response_complete:
            await self._send_head(message)
        if self.is_answered_early:
            self.keep_alive = True  # the protocol ends the connection: closed at once the answer could get lost

    async def _send_head(self, message: Any) -> None:
        """Send the head of an answer that comes in parts, and end: a stream's parts may have no end."""
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
    """Write the head of an answer; raises ValueError where a name or a value would break out of its line."""
    lines = [STATUS_LINE[status]]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"connection: close\r\n\r\n" if closes else b"\r\n")
    written = b"".join(lines)
    ends = len(headers) + 2 + closes
    if written.count(b"\n") != ends or written.count(b"\r") != ends:
        message = f"a header field has more than one line: {headers!r}"
        raise ValueError(message)
    return written
