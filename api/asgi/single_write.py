"""Extends uvicorn's request cycle and transport: one write per response, request bodies taken whole, HEAD as GET.

Two writes for head and body would mean two system calls and an extra wake-up of the caller, which cost more than all
other work of a gateway for a small job. The ASGI extension is `jitney.answer`. It also avoids uvicorn's check of each
header by a pattern, which costs more than the write.

A response that is sent before its request was received closes the connection (`connection: close`).

The app receives HEAD as GET. Only the head is sent, with the Content-Length that GET would have.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from api.asgi.request_observer import HUNG_UP, RequestObserver

log = logging.getLogger("uvicorn.error")

WHOLE_RESPONSE: Final = "jitney.answer"
SMALL_PART_BYTES: Final = 8 << 10


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
        if self._parts:
            self._parts.append(data)
            self._flush()
        elif not self.is_closing():
            self._transport.write(data)

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
    # The state of a new cycle, as uvicorn's constructor sets it; class attributes cost nothing per request.
    access_log = disconnected = response_started = response_complete = False
    more_body = True
    body_bytes = 0  # of the body that `receive` has not returned yet
    task: asyncio.Task[None]  # runs `run_asgi`
    chunked_encoding = None
    expected_content_length = 0
    status = 0  # of the response
    is_observed = False  # the request has been counted
    is_answered_early = False  # the response was sent before the request was received
    _is_read = False  # the app has received the whole body
    on_part: Callable[[int], None] | None = None  # counts the bytes of a body that is taken whole
    _refusal: Exception | None = None  # of `on_part`
    arrival: asyncio.Event | None = None
    on_disconnect: Callable[[], None] | None = None  # called if the caller disconnects before the response

    def __init__(  # noqa: PLR0917 # uvicorn's constructor would create an Event and set attributes that are seldom used
        self,
        scope: Any,
        transport: SingleWriteTransport,
        flow: FlowControl,
        server_state: ServerState,
        on_response: Callable[[], None],
        observer: RequestObserver,
        *,
        expects_100_continue: bool,
        keep_alive: bool,
    ) -> None:
        self.scope, self.transport, self.flow = scope, transport, flow
        self.logger, self.default_headers = log, server_state.default_headers
        self._on_response, self._observer, self._began = on_response, observer, time.monotonic()
        self.waiting_for_100_continue, self.keep_alive = expects_100_continue, keep_alive
        self._tasks = server_state.tasks
        self._parts: list[bytes | bytearray] = []  # of the body that `receive` has not returned yet
        self._is_head = scope["method"] == "HEAD"
        if self._is_head:
            scope["method"] = "GET"

    def on_response(self) -> None:  # uvicorn has an attribute in its place
        """Observe the request, and tell the connection that its response is complete."""
        self.is_observed = True
        self._observer.ended(self.scope, self.status, time.monotonic() - self._began)
        self._on_response()

    def observe(self, status: int) -> None:
        """Count the request, which has ended with this status."""
        self.is_observed = True
        self._observer.ended(self.scope, status, time.monotonic() - self._began)

    @property
    def message_event(self) -> asyncio.Event:  # type: ignore[override]
        """Event for the arrival of a part of the body, the end of the response or a disconnect."""
        if self.arrival is None:
            self.arrival = asyncio.Event()
        return self.arrival

    def wake(self) -> None:
        """Wake the app if it waits in `receive`."""
        if self.arrival is not None:
            self.arrival.set()

    def notify_disconnect(self) -> None:
        """Call `on_disconnect` if the caller has disconnected before the response, and count the request once."""
        if self.disconnected and not self.is_observed:
            self.observe(HUNG_UP)
        if self.disconnected and self.on_disconnect is not None:
            self.on_disconnect()

    async def run_asgi(self, app: Any) -> None:
        """Run the app; log what it raises, and respond with status 500 or reset the connection."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException:
            log.exception("unexpected error in the app")
            await self._fail()
        else:
            if not self.response_complete and not self.disconnected:
                log.error("the app returned without a complete response")
                await self._fail()
        finally:
            self._tasks.discard(self.task)

    async def _fail(self) -> None:
        if self.response_started:
            self.transport.close()
        else:
            await self.send_500_response()

    def add_body(self, body: bytes) -> int:
        """Add a part of the body for `receive`; return the bytes that wait there."""
        parts = self._parts
        if not parts or len(body) >= SMALL_PART_BYTES:
            parts.append(body)
        else:  # small parts would take more memory than their bytes
            if type(parts[-1]) is not bytearray:
                parts.append(bytearray())
            parts[-1] += body
        self.body_bytes += len(body)
        if self.on_part is not None:
            self._count_part(len(body))
        elif self.arrival is not None:
            self.arrival.set()
        return self.body_bytes

    def drop_body(self) -> bytes:
        """Return the part of the body that waits for `receive`, and keep none of it."""
        parts, self._parts, self.body_bytes = self._parts, [], 0
        return parts[0] if len(parts) == 1 and type(parts[0]) is bytes else b"".join(parts)

    def take_body(self) -> bytes | None:
        """Return the whole body, or None if it has not arrived or `receive` must be used."""
        if self.more_body or self._is_read or self.disconnected or self.waiting_for_100_continue:
            return None
        self._is_read = True
        return self.drop_body()

    def _count_part(self, size_bytes: int) -> None:
        """Call `on_part`; if it refuses the body, wake the app."""
        try:
            if self.on_part is not None:
                self.on_part(size_bytes)
        except Exception as error:  # noqa: BLE001 (raised where the app waits)
            self.on_part, self._refusal = None, error
            self.wake()

    async def gather_body(self, on_part: Callable[[int], None]) -> bytes | None:
        """Return the whole body once it has arrived; None if `receive` must be used, also after a disconnect.

        Parts do not wake the app. `on_part` gets the size of each; what it raises ends the wait.
        """
        if self._is_read or self.waiting_for_100_continue:
            return None
        self.on_part = on_part
        self._count_part(self.body_bytes)
        while self.more_body and self._refusal is None and not (self.disconnected or self.response_complete):
            self.flow.resume_reading()
            self.message_event.clear()
            await self.message_event.wait()
        if self._refusal is not None:
            raise self._refusal
        self.on_part = None
        return self.take_body()

    async def receive(self) -> Any:
        body = self.take_body()
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        while not (
            self.disconnected or self.response_complete or self._parts or (not self.more_body and not self._is_read)
        ):
            self.flow.resume_reading()
            self.message_event.clear()
            await self.message_event.wait()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        self._is_read = not self.more_body
        return {"type": "http.request", "body": self.drop_body(), "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        if message["type"] != WHOLE_RESPONSE or self.response_started:
            await self._send_part(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        self._respond(message["status"], message["headers"], message["body"], message.get("encoded", b""))

    def try_respond(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, encoded: bytes) -> bool:
        """Send a whole response at once, as `send` does; return False if `send` must be used."""
        if self.flow.write_paused or self.response_started:
            return False
        self._respond(status, headers, body, encoded)
        return True

    def _respond(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, encoded: bytes) -> None:
        """Send a whole response, unless the caller has disconnected."""
        if self.disconnected:
            return
        is_early = self.more_body
        encoded += b"x-request-id: %b\r\n" % self._observer.id_of(self.scope)
        head = encode_head(status, headers, closes=is_early or not self.keep_alive, encoded=encoded)
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.is_answered_early, self.status = is_early, status
        self.transport.write_and_flush(head if self._is_head else head + body)
        self.wake()
        if not self.keep_alive and not is_early:  # otherwise the protocol closes it later, so that it is not lost
            self.transport.close()
        self.on_response()

    async def _send_part(self, message: Any) -> None:
        """Send a part of a response through uvicorn."""
        if message["type"] == "http.response.start" and not self.response_started:
            headers = [*message.get("headers", ()), (b"x-request-id", self._observer.id_of(self.scope))]
            if self.more_body:
                self.is_answered_early = True
                headers.append((b"connection", b"close"))
            message, self.status = {**message, "headers": headers}, message["status"]
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
        self.wake()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def try_respond(
    send: Callable[..., Any], status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, encoded: bytes
) -> bool:
    """Send a whole response to the request of this `send` at once; return False if a message must be sent."""
    cycle = getattr(send, "__self__", None)
    return isinstance(cycle, SingleWriteCycle) and cycle.try_respond(status, headers, body, encoded)


def take_body(receive: Callable[[], Any]) -> bytes | None:
    """Return the whole body of the request of this `receive`; None if it has not arrived: then call `receive`."""
    cycle = getattr(receive, "__self__", None)
    return cycle.take_body() if isinstance(cycle, SingleWriteCycle) else None


async def gather_body(receive: Callable[[], Any], on_part: Callable[[int], None]) -> bytes | None:
    """Return the whole body of the request of this `receive` once it has arrived; None if `receive` must be used.

    `on_part` gets the size of each part; what it raises is raised here.
    """
    cycle = getattr(receive, "__self__", None)
    return await cycle.gather_body(on_part) if isinstance(cycle, SingleWriteCycle) else None


def call_on_disconnect(receive: Callable[[], Any], callback: Callable[[], None]) -> None:
    """Call a function once the caller of the request of this `receive` has disconnected, unless it was answered."""
    cycle = getattr(receive, "__self__", None)
    if isinstance(cycle, SingleWriteCycle):
        cycle.on_disconnect = callback
        cycle.notify_disconnect()


def encode_fields(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return encoded header fields; raises ValueError if one contains a line break."""
    written = b"".join([b"%b: %b\r\n" % field for field in headers])
    if written.count(b"\n") != len(headers) or written.count(b"\r") != len(headers):
        raise ValueError(f"a header field contains a line break: {headers!r}")
    return written


def encode_head(status: int, headers: Sequence[tuple[bytes, bytes]], *, closes: bool, encoded: bytes = b"") -> bytes:
    """Return the encoded head of a response; raises as `encode_fields`. `encoded`: fields before `headers`."""
    end = b"connection: close\r\n\r\n" if closes else b"\r\n"
    return STATUS_LINE[status] + encoded + encode_fields(headers) + end
