"""One keep-alive HTTP/1.1 connection with one request in flight: as little client as an honest measurement needs."""

import asyncio
import http.client
import os
import time
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpResponseParser

from cli.bench.errors import CannotMeasure

TIMEOUT_S: Final = 10
API_KEY_VARIABLE: Final = "JITNEY_API_KEY"


class Address(NamedTuple):
    """Where the service listens; `prefix` is what stands before `/v1`, `key` an API key, where it needs one."""

    host: str
    port: int
    prefix: str
    key: str = ""

    @classmethod
    def of(cls, url: str) -> "Address":
        """Raises CannotMeasure for what is no http:// address."""
        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise CannotMeasure(f"--url {url}: {error}") from error
        if parts.scheme != "http" or not host or parts.query or parts.fragment:
            raise CannotMeasure(f"--url {url}: give it as http://HOST:PORT")
        return cls(host, port or 80, parts.path.rstrip("/"), os.environ.get(API_KEY_VARIABLE, ""))

    @property
    def authority(self) -> str:
        """Host and port as a URL and a Host header have them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def head(self) -> str:
        """Give the header fields that every request has."""
        authorization = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        return f"Host: {self.authority}\r\n{authorization}"

    def __str__(self) -> str:
        return f"http://{self.authority}{self.prefix}"


class HttpResponse(NamedTuple):
    """A whole response; `at` is when its last byte was read, in seconds of `time.perf_counter`."""

    status: int
    body: bytes
    at: float


class Connection(asyncio.Protocol):
    """Open one with `connect`."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[HttpResponse] | None = None
        self.is_open = False

    def ask(self, request: bytes) -> "asyncio.Future[HttpResponse]":
        """Sends a whole request; the answer raises ConnectionError where the connection breaks before its end."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None or not self.is_open:
            self._answer.set_exception(ConnectionError("the connection is closed"))
        else:
            self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """At once, with whatever is under way."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.is_open = cast(asyncio.Transport, transport), True  # uvloop's derive from nothing

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(exc or "the service closed the connection")))

    def on_message_begin(self) -> None:
        self._chunks.clear()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        at, status = time.perf_counter(), self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(HttpResponse(status, b"".join(self._chunks), at))


def get(address: Address, path: str) -> tuple[int, bytes]:
    """One GET outside of any measurement: status and body. Raises OSError and http.client.HTTPException."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
    try:
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        connection.request("GET", f"{address.prefix}{path}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def connect(address: Address) -> Connection:
    """Raises OSError."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, address.host, address.port)
    return connection
