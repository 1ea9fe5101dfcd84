"""The gateway's HTTP protocol in front of a test's ASGI app, in this process, over real sockets."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import uvicorn

from api.asgi.connection_limits import ConnectionLimits, ConnectionTable, sweep_connections
from api.asgi.protocol import GatewayProtocol, protocol_with_limits
from tests.support.waiting import pass_time, wait_until_async

App = Callable[[Any, Any, Any], Awaitable[None]]
BOUNDS = ConnectionLimits(
    head_bytes=64 << 10, header_timeout_s=10, body_timeout_s=30, send_timeout_s=30, connections=1000
)


class StubServer:
    """A server, from the view of its connections."""

    def __init__(self, port: int, protocol: type[GatewayProtocol], server: uvicorn.Server) -> None:
        self.port, self._server = port, server
        self.table: ConnectionTable = protocol.table

    @property
    def connections(self) -> list[GatewayProtocol]:
        return list(self._server.server_state.connections)  # type: ignore[arg-type]

    async def connect(self, receive_buffer: int = 0) -> "Caller":
        """Open a connection; with a small receive buffer responses stay in the server."""
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        return Caller(connection)


class Caller:
    """A raw connection. Use it in a `with`."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket, self._loop = connection, asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.socket, data)

    async def fill(self, data: bytes) -> int:
        """Send until the peer accepts no more for a while; return the accepted bytes."""
        sent = 0
        with suppress(TimeoutError, ConnectionError):
            while sent < len(data):
                async with asyncio.timeout(0.2):
                    await self._loop.sock_sendall(self.socket, data[sent : sent + 16_384])
                sent += 16_384
        return sent

    async def hear(self, until: Callable[[bytes], object] = lambda _: False) -> bytes:
        """Read until the received data is enough, or the peer closes."""
        heard = b""
        async with asyncio.timeout(10):
            while not until(heard):
                try:
                    data = await self._loop.sock_recv(self.socket, 1 << 16)
                except ConnectionError:
                    break
                if not data:
                    break
                heard += data
        return heard

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@asynccontextmanager
async def serving(app: App, bounds: ConnectionLimits = BOUNDS) -> AsyncIterator[StubServer]:
    """Serve it until the end of the `with`."""
    protocol = protocol_with_limits(bounds)
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False)
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    serves = asyncio.create_task(server._serve([listening]))

    async def is_started() -> bool:
        return server.started

    await wait_until_async(is_started, "the server is started")
    sweeps = asyncio.create_task(sweep_connections(server.server_state.connections, bounds))
    try:
        yield StubServer(listening.getsockname()[1], protocol, server)
    finally:
        sweeps.cancel()
        server.should_exit = True
        connections = [*server.server_state.connections]
        await serves
        for connection in connections:  # those that linger would outlive the loop
            connection.transport.abort()
        await pass_time(0)
