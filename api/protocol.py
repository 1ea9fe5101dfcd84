"""uvicorn's HTTP protocol, bounded: what one connection may send before it says anything of use, and how slowly.

With no timer for each request: all connections are swept. And with one write for each answer: head and body would leave
in two, each a call to the system, which with the caller's extra wake-up costs more than all that a gateway itself does
for a small job.
"""

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api import cycle
from api.answers import problem
from jobs.errors import JitneyError, NotNow, Refused

MAX_HEADERS: Final = 100
UPLOADS: Final = b"/v1/files"  # where a body may be large: it is given time as long as it comes
LINGER_S: Final = 1.0  # for an answer that comes before the request's end to arrive, though nothing more is read
SWEEPS_PER_LIMIT: Final = 10
_NOWHERE: Final = logging.getLogger("jitney.api")  # there is no access log
FORGET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s


class Bounds(NamedTuple):
    """What a connection may take: bytes of a head; seconds for it, for a body, and without reading; how many."""

    head_bytes: int
    head_s: float
    receive_s: float
    send_s: float
    connections: int
    upload_bytes_s: int = 32 << 10  # what an upload must bring, beside `receive_s`


class OneWrite:
    """A transport that sends what was written in one turn of the event loop together; all else passes straight on."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it with what else is written in this turn."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def write_whole(self, answer: bytes) -> None:
        """Send it at once: nothing follows that belongs to it."""
        self._parts.append(answer)
        self._flush()

    def write_eof(self) -> None:
        """Say, once everything is sent, that nothing more will be."""
        self._flush()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Close once everything is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))


class Protocol(HttpToolsProtocol):
    """One connection of a caller."""

    bounds = Bounds(head_bytes=64 << 10, head_s=10, receive_s=30, send_s=30, connections=10_000)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", OneWrite(cast("asyncio.Transport", transport))))
        self._waits_since: float | None = self.loop.time()  # for a head; None while a request is answered
        self._body_since: float | None = None  # while a body arrives
        self._idle_bytes = self._chunk_bytes = 0  # since something of a request or its body was made of them; at a time
        self.url, self._is_upload, self._upload_bytes = b"", False, 0
        self._refusal: JitneyError | None = None
        self._is_over = False  # nothing more is read
        self._is_kept = False  # alive, after its first answer
        self._unsent_bytes, self._moved_at = 0, 0.0
        if len(self.connections) > self.bounds.connections:
            message = f"this gateway holds {self.bounds.connections} connections, as many as it may"
            self._refuse(NotNow("too_many_connections", message, retry_after_s=1))
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._chunk_bytes = len(data)
        self._idle_bytes += len(data)
        super().data_received(data)
        if self._idle_bytes > self.bounds.head_bytes:
            self._refuse(self._head_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._idle_bytes = 0

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_HEADERS or self._chunk_bytes > self.bounds.head_bytes < self._head_bytes():
            self._refusal = self._head_too_large()
            raise self._refusal  # out of the parser, to `send_400_response`
        self._begin()
        self._waits_since, self._body_since, self._upload_bytes = None, self.loop.time(), 0
        self._is_upload = self.url.partition(b"?")[0] == UPLOADS
        self.headers = cast("list[tuple[bytes, bytes]]", deque(maxlen=1))  # for trailers, which nobody reads

    def _begin(self) -> None:
        """Start to answer the request whose head is complete, or let it wait for the one before it."""
        parser, scope, url = self.parser, self.scope, httptools.parse_url(self.url)
        path, version = url.path.decode("ascii"), parser.get_http_version()
        scope["method"], scope["http_version"] = parser.get_method().decode("ascii"), version
        scope["path"], scope["raw_path"] = unquote(path) if "%" in path else path, url.path
        scope["query_string"] = url.query or b""
        before = self.cycle
        self.cycle = cycle.Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=_NOWHERE,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        if self._is_upload:
            self._upload_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._body_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.cycle.response_complete and self.cycle.more_body:  # answered before its end: the rest is not read
            self._end()
            return
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.cycle.response_complete:
            self._is_kept, self._waits_since = True, self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser could not read, or what went beyond its bounds."""
        self._refuse(self._refusal or Refused("malformed_request", msg))

    def check(self, now: float) -> None:
        """Give up a caller who takes too long for a head or a body, or has taken nothing of an answer for too long."""
        if self._is_over or self.transport.is_closing():
            return
        if self._is_idle() and now - cast("float", self._waits_since) > self.timeout_keep_alive:
            self.transport.close()
            return
        if self._waits_since is not None and now - self._waits_since > self.bounds.head_s:
            message = f"the head of a request did not arrive within {self.bounds.head_s:g} s"
            self._refuse(Refused("request_timeout", message, limit_s=self.bounds.head_s))
        limit_s = self.bounds.receive_s + self._upload_bytes / self.bounds.upload_bytes_s
        if self._body_since is not None and now - self._body_since > limit_s:
            message = f"the body did not arrive within {limit_s:g} s"
            self._refuse(Refused("request_timeout", message, limit_s=limit_s))
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or self._unsent_bytes == 0 or unsent < self._unsent_bytes:
            self._moved_at = now
        elif now - self._moved_at > self.bounds.send_s:
            # The system forgets what it still holds for this caller, too.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, FORGET)
            self.transport.abort()
        self._unsent_bytes = unsent

    def _is_idle(self) -> bool:
        """Whether nothing of a next request has come."""
        return self._is_kept and self._waits_since is not None and self._idle_bytes == 0

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _head_too_large(self) -> Refused:
        bytes_, headers = self.bounds.head_bytes, MAX_HEADERS
        message = f"the head of a request may have {bytes_} bytes and {headers} header fields"
        return Refused("head_too_large", message, limit_bytes=bytes_, limit=headers)

    def _refuse(self, error: JitneyError) -> None:
        """Answer with an error instead of the app, and end; who has an answer under way is cut off."""
        if self._is_over or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # whoever waits for the rest of the body hears that it will not come
            self.cycle.message_event.set()
        answer = problem(error, self.url.partition(b"?")[0].decode("latin-1"))
        self.transport.write(cycle.head(answer.status, answer.all_headers(), closes=True) + answer.body)
        self._end()

    def _end(self) -> None:
        """Read nothing more and let the answer arrive: closed at once, with bytes unread, it could get lost."""
        self._is_over = True
        self._unset_keepalive_if_required()
        self.flow.pause_reading()
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)


def bounded(bounds: Bounds) -> type[Protocol]:
    """Give the protocol with these bounds."""
    return type("BoundedProtocol", (Protocol,), {"bounds": bounds})


async def sweep(connections: Iterable[Any], bounds: Bounds) -> None:
    """Check all connections again and again, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(min(bounds.head_s, bounds.receive_s, bounds.send_s) / SWEEPS_PER_LIMIT)
        now = loop.time()
        for connection in list(connections):
            connection.check(now)
