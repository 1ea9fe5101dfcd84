"""A minimal HTTP/1.1 client (keep-alive, one request in flight); the address and API key of a service; a plain GET."""

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
    """The address of a service. `prefix`: the path before `/v1`; `key`: an API key, or empty."""

    host: str
    port: int
    prefix: str
    key: str = ""

    @classmethod
    def of(cls, url: str) -> "Address":
        """Parse a URL. Raises CannotMeasure if it is not http://."""
        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise CannotMeasure(f"--url {url}: {error}") from error
        if parts.scheme != "http" or not host or parts.query or parts.fragment:
            raise CannotMeasure(f"--url {url}: must be http://HOST:PORT")
        return cls(host, port or 80, parts.path.rstrip("/"), os.environ.get(API_KEY_VARIABLE, ""))

    @property
    def authority(self) -> str:
        """Host and port as in a URL or a Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def head(self) -> str:
        """The header fields of every request."""
        authorization = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        return f"Host: {self.authority}\r\n{authorization}"

    def __str__(self) -> str:
        return f"http://{self.authority}{self.prefix}"


class HttpResponse(NamedTuple):
    """A complete response; `at` is the time its last byte was read, in seconds of `time.perf_counter`."""

    status: int
    body: bytes
    at: float


class Connection(asyncio.Protocol):
    """A connection; `connect` opens one."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._response: asyncio.Future[HttpResponse] | None = None
        self.is_open = False

    def request(self, data: bytes) -> "asyncio.Future[HttpResponse]":
        """Send a complete request. The future raises ConnectionError if the connection breaks before the end."""
        self._response = asyncio.get_running_loop().create_future()
        # uvloop raises RuntimeError for a write to a closed transport.
        if self._transport is None or not self.is_open or self._transport.is_closing():
            self._response.set_exception(ConnectionError("the connection is closed"))
        else:
            self._transport.write(data)
        return self._response

    def close(self) -> None:
        """Abort the connection and any request in flight."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.is_open = cast(asyncio.Transport, transport), True  # uvloop's class has no base class

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._response is not None and not self._response.done():
            self._response.set_exception(ConnectionError(str(exc or "the service closed the connection")))

    def on_message_begin(self) -> None:
        self._chunks.clear()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        at, status = time.perf_counter(), self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if self._response is not None and not self._response.done():
            self._response.set_result(HttpResponse(status, b"".join(self._chunks), at))


def get(address: Address, path: str) -> tuple[int, bytes]:
    """Send a GET outside of measurements; return status and body. Raises OSError, http.client.HTTPException."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
    try:
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        connection.request("GET", f"{address.prefix}{path}", headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


async def connect(address: Address) -> Connection:
    """Open a connection. Raises OSError."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, address.host, address.port)
    return connection


async def ensure_connected(address: Address, connection: Connection | None) -> Connection:
    """Return the connection if it is open, else a new one. Raises OSError."""
    return connection if connection is not None and connection.is_open else await connect(address)


async def close_connection(connection: Connection | None) -> None:
    """Close a connection and let the event loop run once."""
    if connection is not None:
        connection.close()
        await asyncio.sleep(0)
