"""Extends uvicorn's HTTP protocol: limits size, time and connections, and holds pipelined requests back.

The bytes of a pipelined request are parsed when the response before it is sent. A request whose head is known
(api/asgi/known_heads.py) does not pass through the parser: its body is taken as it arrives. Timeouts need no timer per
request, because `sweep_connections` (api/asgi/connection_limits.py) checks all connections.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.asgi import request_head, single_write
from api.asgi.connection_limits import ConnectionLimits, ConnectionTable
from api.asgi.cors import CorsPolicy
from api.asgi.known_heads import KnownHead, KnownHeads
from api.asgi.request_boundaries import BOUNDARY, RequestSplitter
from api.asgi.request_observer import RequestObserver
from api.asgi.responses import error_response
from api.asgi.tenant_budgets import RETRY_AFTER_S
from jobs.contract.errors import JitneyError, QueueFull, Refused, RetryLater

BODYLESS_METHODS: Final = frozenset({"GET", "HEAD"})  # a body has no meaning there: it is read and discarded
MAX_UNREAD_BYTES: Final = 256 << 10  # of a body, at which reading is paused; from a quarter on they count at once
UPLOAD_PATH: Final = b"/v1/files"  # its body may be large: the timeout grows with the bytes received
LINGER_S: Final = 1.0  # before closing, so that an early response can reach the caller
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s


class GatewayProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    cycle: single_write.SingleWriteCycle
    limits = ConnectionLimits()
    observer = RequestObserver()
    table = ConnectionTable(limits.buffers_bytes)
    cors = CorsPolicy(())
    heads = KnownHeads()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._joining = single_write.SingleWriteTransport(cast("asyncio.Transport", transport))
        super().connection_made(cast("asyncio.Transport", self._joining))
        self.flow = self._flow = single_write.HoldingFlowControl(self.transport)
        self._connection_scope = {
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "scheme": self.scheme,
            "root_path": self.root_path,
            "server": self.server,
            "client": self.client,
            "extensions": {single_write.WHOLE_RESPONSE: {"evict": self.evict, "is_closing": self.transport.is_closing}},
        }
        self._framing, self._held = RequestSplitter(), b""
        self._parsed_head: KnownHead | None = None  # parsed from the current piece, if it may be kept
        self._unparsed_bytes = 0  # of the body of a request with a known head that have not arrived
        self._is_request_complete = True  # received to its end; also true before the first request
        self._is_upgrade = self._drops_body = False
        self._idle_since: float | None = self.loop.time()  # None during a request
        self._head_since: float | None = None  # None unless a head is being received
        self._body_since: float | None = None  # None unless a body is being received
        self._idle_bytes = self._piece_bytes = 0  # bytes fed without parsed output; bytes of the current piece
        self.url, self._is_upload, self._upload_bytes = b"", False, 0
        self._refusal: JitneyError | None = None
        self._is_finished = self._is_kept = False  # no more bytes are read; kept alive after a response
        self._unsent_bytes, self.last_progress_at = 0, 0.0
        self.table.mark_idle(self)
        if len(self.connections) > self.limits.connections and not self.table.evict_idle(self):
            message = f"this gateway has reached its limit of {self.limits.connections} connections"
            self._refuse(RetryLater("too_many_connections", message, retry_after_s=1))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.forget(self)
        self._held = b""
        super().connection_lost(exc)
        if self.cycle is not None:
            self.cycle.notify_disconnect()

    # ---- receiving

    def data_received(self, data: bytes) -> None:
        if self._is_finished:
            return
        if not self._is_request_complete or self._can_parse():
            self._parse(data)
        else:
            self._hold_back(self._held + data if self._held else data)

    def _can_parse(self) -> bool:
        """Return whether to parse more: the request is incomplete, or its response is complete and sent."""
        if not self._is_request_complete or self.cycle is None:
            return True
        return self.cycle.response_complete and not self.flow.write_paused

    def _parse(self, data: bytes) -> None:
        """Parse up to the end of a request, and hold back the bytes behind it."""
        start, size = 0, len(data)
        while True:
            if self._unparsed_bytes:
                start = self._take_body(data, start)
            elif self._is_request_complete and not self._idle_bytes:  # a request begins here
                start = self._parse_request(data, start)
            else:
                end = self._framing.next_boundary(data, start)
                self._feed(data[start:end])
                start = end
            if self._idle_bytes > self.limits.head_bytes:
                self._refuse(request_head.too_large(self.limits.head_bytes))
            if start == size or self._is_finished or self.transport.is_closing():
                break
            if not self._can_parse():
                self._hold_back(data[start:])
                return
        if self._idle_since is not None and self._head_since is None:  # an incomplete head
            self._head_since = self.loop.time()

    def _parse_request(self, data: bytes, start: int) -> int:
        """Parse the head of a request that begins at `start`, unless it is known; return the offset behind it."""
        at = data.find(BOUNDARY, start)
        head = data[start : at + len(BOUNDARY)] if at >= 0 else b""
        known = self.heads.find(head) if head else None
        if known is not None:
            self._begin_known(known)
            return self._take_body(data, start + len(head))
        end, self._parsed_head = self._framing.next_boundary(data, start), None
        self._feed(data[start:end])
        if self._parsed_head is not None and len(head) == end - start:
            self.heads.keep(head, self._parsed_head)
        return end

    def _take_body(self, data: bytes, start: int) -> int:
        """Take the body of a request with a known head; return the offset behind what was taken."""
        end = min(len(data), start + self._unparsed_bytes)
        if end > start:
            self._unparsed_bytes -= end - start
            self.on_body(data if end - start == len(data) else data[start:end])
            if not self._unparsed_bytes:
                self.on_message_complete()
        return end

    def _feed(self, piece: bytes) -> None:
        self._piece_bytes = len(piece)
        self._idle_bytes += len(piece)
        try:
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                self._parse_again()
        except httptools.HttpParserError:
            self.send_400_response("the request is not valid HTTP/1.1")

    def _parse_again(self) -> None:
        """Parse a head again without its Upgrade field, which is ignored (RFC 9110, 7.8).

        With this field llhttp would take the body for data of another protocol.
        """
        head = request_head.encode_without_upgrade(self.parser, self.url, self.headers)
        self._is_upgrade = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        self.parser.feed_data(head)

    def _hold_back(self, data: bytes) -> None:
        """Keep the bytes behind a request unparsed, and pause reading."""
        self._held = data
        self.flow.pause_reading()
        self._flow.is_held = True
        self._count()

    def _resume_parsing(self) -> None:
        """Parse the bytes that were held back, then resume reading."""
        self._flow.is_held = False
        if held := self._held:
            self._held = b""
            self._parse(held)
            if self._flow.is_held or self._is_finished:
                return
            self._count()
        self.flow.resume_reading()

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            raise RuntimeError("a request was parsed before the response to the previous one")  # a bug of the splitter
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._is_request_complete, self._idle_bytes = False, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        try:
            self._begin_parsed()
        except Refused as refusal:  # it stops the parser, and `send_400_response` sends it
            self._refusal = refusal
            raise

    def _begin_parsed(self) -> None:
        """Start the app for a request whose head was parsed, unless its head has an Upgrade field. Raises Refused."""
        request_head.check_size(self.url, self.headers, self._piece_bytes, self.limits.head_bytes)
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise Refused("malformed_request", "CONNECT is not supported: this is not a proxy")
            self._is_upgrade = True  # the parser stops after this head; see `_feed`
            return
        fields, declared = dict(self.headers), 0
        if b"content-length" in fields or b"transfer-encoding" in fields:
            declared = request_head.declared_bytes(self.headers, fields)
            self._framing.expect_body(declared)
        if b"expect" in fields and (b"expect", b"100-continue") in [(n, v.lower()) for n, v in self.headers]:
            self.expect_100_continue = True
        scope = request_head.build_scope(self.parser, self.url, self.headers, fields)
        keep_alive = scope["http_version"] != "1.0" and self.parser.should_keep_alive()
        self._drops_body, self._is_upload = scope["method"] in BODYLESS_METHODS, scope["raw_path"] == UPLOAD_PATH
        if keep_alive and declared and not self._is_upload:  # uploads have a timeout of their own
            self._parsed_head = self.heads.prepare(self.url, scope, declared)
        self._begin(scope, keep_alive=keep_alive)
        self.headers = cast("list[tuple[bytes, bytes]]", deque(maxlen=1))  # bounds the trailers, which are ignored

    def _begin_known(self, known: KnownHead) -> None:
        """Start the app for a request with a known head, as `on_message_begin` and `on_headers_complete` do."""
        self.url, self.headers, self.expect_100_continue = known.url, [], False
        self._is_request_complete = self._drops_body = self._is_upload = False
        self._unparsed_bytes = known.body_bytes
        self._begin(known.scope.copy(), keep_alive=True)

    def _begin(self, scope: dict[str, Any], *, keep_alive: bool) -> None:
        """Start the app for a request whose head is complete."""
        self._idle_since, self._head_since = None, None
        self._body_since, self._upload_bytes = self.loop.time(), 0
        self.table.mark_busy(self)
        scope |= self._connection_scope
        scope["state"] = self.app_state.copy()
        self.cycle = cycle = single_write.SingleWriteCycle(
            *(scope, self._joining, self.flow, self.server_state, self.on_response_complete, self.observer),
            expects_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
        )
        cycle.task = self.loop.create_task(cycle.run_asgi(self.app))
        self.tasks.add(cycle.task)

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        if self._is_upload:
            self._upload_bytes += len(body)
        if self._drops_body or (cycle := self.cycle).response_complete:
            return
        if (unread := cycle.add_body(body)) > MAX_UNREAD_BYTES // 4:
            if unread > MAX_UNREAD_BYTES:
                self.flow.pause_reading()
            self._count()

    def on_message_complete(self) -> None:
        if self._is_upgrade:
            return
        self._is_request_complete, self._body_since = True, None
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            if cycle.arrival is not None:
                cycle.wake()

    # ---- sending

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.cycle.is_answered_early:  # do not read the rest of the request
            self._end()
            return
        self.table.mark_idle(self)
        if self.transport.is_closing():
            return
        self._is_kept, self._idle_since = True, self.loop.time()
        if self.flow.read_paused and not self.flow.write_paused:
            self._resume_parsing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._count()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._count()
        is_answered = self.cycle is not None and self.cycle.response_complete and self._is_request_complete
        if is_answered and not self._is_finished and not self.transport.is_closing():
            self._resume_parsing()

    def send_400_response(self, msg: str) -> None:
        """Respond to a request that is malformed or exceeds a limit."""
        self._refuse(self._refusal or Refused("malformed_request", msg))

    # ---- timeouts and limits

    def check(self, now: float) -> None:
        """Enforce the timeouts for a head, a body, an idle connection and a response that is not read."""
        self._check_unsent(now)
        if self._is_finished or self.transport.is_closing():
            return
        if self._head_since is not None:
            if now - self._head_since > self.limits.header_timeout_s:
                message = f"the head of a request did not arrive within {self.limits.header_timeout_s:g} s"
                self._refuse(Refused("request_timeout", message, limit_s=self.limits.header_timeout_s))
            return
        if self._idle_since is not None:  # no request has begun, so none gets a response
            limit_s = self.limits.keepalive_timeout_s if self._is_kept else self.limits.header_timeout_s
            if now - self._idle_since > limit_s:
                self.transport.close()
            return
        limit_s = self.limits.body_timeout_s + self._upload_bytes / self.limits.upload_bytes_s
        if self._body_since is not None and now - self._body_since > limit_s:
            message = f"the body did not arrive within {limit_s:g} s"
            self._refuse(Refused("request_timeout", message, limit_s=limit_s))

    def _check_unsent(self, now: float) -> None:
        """Reset the connection if its caller does not read the response, even while it is closing."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or self._unsent_bytes == 0 or unsent < self._unsent_bytes:
            self.last_progress_at = now
        elif now - self.last_progress_at > self.limits.send_timeout_s:
            self.reset_connection()
        self._unsent_bytes = unsent
        self.table.count(self, self._unread_bytes() + unsent)

    @property
    def tenant(self) -> str:
        caller: Any = self.cycle.scope.get("caller") if self.cycle is not None else None
        return str(caller.tenant) if caller is not None else ""

    def buffered_bytes(self) -> int:
        """Return the bytes in memory of unread requests and unsent responses."""
        return self._unread_bytes() + self.transport.get_write_buffer_size()

    def _unread_bytes(self) -> int:
        return len(self._held) + (self.cycle.body_bytes if self.cycle is not None else 0)

    def _count(self) -> None:
        self.table.count(self, self.buffered_bytes())

    def close_idle(self) -> None:
        if self._is_finished or self.transport.get_write_buffer_size():
            self.reset_connection()
        else:
            self.transport.close()

    def evict(self) -> None:
        """End the current request to free memory for other tenants."""
        if self.cycle is None or self.cycle.response_complete:
            return
        if self.cycle.more_body:
            message = "the memory of this request is needed for other tenants: send it again later"
            self._refuse(QueueFull(message, retry_after_s=RETRY_AFTER_S))
        else:  # its effect is unknown, so no response would be correct
            self.reset_connection()

    def reset_connection(self) -> None:
        """Close it at once, and discard unsent bytes in the socket too."""
        with suppress(OSError):  # it is closed already
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    def _refuse(self, error: JitneyError) -> None:
        """Send an error in place of the app's response and close; abort if a response has already started."""
        if self._is_finished or self.transport.is_closing():
            return
        received: Iterable[tuple[bytes, bytes]] = self.headers  # of the request whose head is being received
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:
                self.transport.abort()
                return
            received = self.cycle.scope["headers"]
            self.cycle.disconnected = True  # the app stops waiting for the body
            self.cycle.wake()
        response = error_response(error, self.url.partition(b"?")[0].decode("latin-1"))
        headers = (*response.headers, *self.cors.headers(received))
        fields = response.common_fields() + self.observer.refused(self.cycle, response.status)
        head = single_write.encode_head(response.status, headers, closes=True, encoded=fields)
        self.transport.write(head + response.body)
        self._end()

    def _end(self) -> None:
        """Stop reading and close after `LINGER_S`. Closing at once, with unread bytes, could lose the response."""
        self._is_finished, self._held = True, b""
        if self.cycle is not None:
            self.cycle.drop_body()
        self.flow.pause_reading()
        self.transport.write_eof()
        self.table.mark_closing(self)
        self.loop.call_later(LINGER_S, self.transport.abort)


def protocol_with_limits(
    limits: ConnectionLimits, observer: RequestObserver | None = None, cors: CorsPolicy = GatewayProtocol.cors
) -> type[GatewayProtocol]:
    table, observer = ConnectionTable(limits.buffers_bytes), observer or RequestObserver()
    attributes = {"limits": limits, "observer": observer, "table": table, "cors": cors, "heads": KnownHeads()}
    return type("LimitedProtocol", (GatewayProtocol,), attributes)
