"""A webhook receiver on loopback with scripted behaviour; it records all requests."""

import asyncio
import json
import ssl as tls
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self

from tests.support.waiting import wait_until


class ReceivedRequest(NamedTuple):
    """One request. `number` counts those of its path before it."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at_s: float
    number: int

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.body)
        return read


Writer = asyncio.StreamWriter
Behaviour = Callable[[ReceivedRequest, Writer], Awaitable[None]]


def answer(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Behaviour:
    """Answer at once."""

    async def behave(_got: ReceivedRequest, writer: Writer) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body)

    return behave


async def hang(_got: ReceivedRequest, writer: Writer) -> None:
    """Send nothing, until the sender gives up."""
    await writer.wait_closed()


async def reset(_got: ReceivedRequest, writer: Writer) -> None:
    """Break the connection."""
    writer.transport.abort()


async def drip(_got: ReceivedRequest, writer: Writer) -> None:
    """Send a byte of a header now and then, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await _moment()


async def flood(_got: ReceivedRequest, writer: Writer) -> None:
    """Answer with a gigabyte."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
    for _ in range(1024):
        writer.write(b"x" * (1 << 20))
        await writer.drain()


async def _moment() -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.02)


class Receiver:
    """Runs in its own thread. `behaves` may be changed at any time; use it in a `with`."""

    def __init__(
        self,
        behaves: Behaviour | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        self.behaves = behaves or answer(204)
        self.got: list[ReceivedRequest] = []
        self.connections = 0
        self.names: list[str | None] = []
        self._host, self.port, self._ssl = host, port, ssl
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None] | None] = set()  # asyncio itself holds them but weakly
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._ssl else 'http'}://{self._host}:{self.port}"

    def wait_for(self, count: int, timeout_s: float = 10) -> list[ReceivedRequest]:
        """Wait for a number of requests; return all of them."""
        wait_until(lambda: len(self.got) >= count, f"{count} requests (there are {len(self.got)})", timeout_s)
        return list(self.got)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.port, "the receiver listens")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, self._host, self.port, ssl=self._ssl, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        await self._stop.wait()
        server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=0.1)
        await _moment()  # what was closed is closed in a later turn of the loop

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        self._tasks.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while not writer.is_closing():
                got = await self._read(reader)
                self.got.append(got)
                await self.behaves(got, writer)
                await writer.drain()
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> ReceivedRequest:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = head[0].split(" ")[1]
        return ReceivedRequest(path, headers, body, time.monotonic(), sum(1 for one in self.got if one.path == path))
