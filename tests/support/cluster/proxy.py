"""A TCP proxy in front of one server that can delay, swallow or refuse traffic, without privileges."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Way = Literal["requests", "answers"]
CHUNK_BYTES = 64 << 10
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: what is closed is reset


class Network:
    """The thread in which all proxies of a cluster live."""

    def __init__(self) -> None:
        self.servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the thread, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def close(self) -> None:
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        for server in self.servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Proxy:
    """Listens on loopback and forwards all traffic to `upstream`, a Unix socket or a port."""

    def __init__(self, network: Network, upstream: Path | int) -> None:
        self.upstream = upstream
        self._network = network
        self._delay_s = 0.0
        self._refuses = False
        self._answer_bytes: int | None = None
        self._links: set[_Link] = set()
        self._open: dict[Way, asyncio.Event] = {}
        self.port = network.run(self._listen())

    async def _listen(self) -> int:
        self._open = {"requests": asyncio.Event(), "answers": asyncio.Event()}
        self._set_open("requests", "answers")
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._network.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def _set_open(self, *ways: Way) -> None:
        for way, gate in self._open.items():
            if way in ways:
                gate.set()
            else:
                gate.clear()

    def heal(self) -> None:
        """Forward everything again, held-back bytes first."""
        self._do(self._heal)

    def _heal(self) -> None:
        self._delay_s, self._refuses, self._answer_bytes = 0.0, False, None
        self._set_open("requests", "answers")

    def delay(self, seconds: float) -> None:
        """Delay all bytes in both directions."""
        self._do(lambda: setattr(self, "_delay_s", seconds))

    def stall(self, *ways: Way) -> None:
        """Half open: connections stay and new ones are accepted, but nothing passes these ways (default: both)."""
        closed = ways or ("requests", "answers")
        self._do(lambda: self._set_open(*(way for way in self._open if way not in closed)))

    def cut(self) -> None:
        """Reset every connection, and each new one."""
        self._do(self._cut)

    def _cut(self) -> None:
        self._refuses = True
        for link in list(self._links):
            link.reset()

    def cut_after(self, answer_bytes: int) -> None:
        """Let a number of response bytes pass, then reset each connection with a further response."""
        self._do(lambda: setattr(self, "_answer_bytes", answer_bytes))

    def _do(self, change: Callable[[], object]) -> None:
        async def work() -> None:
            change()

        self._network.run(work())

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            if not self._refuses:
                await link.run()
        except (OSError, asyncio.CancelledError):
            pass  # one end is gone: so is the other
        finally:
            self._links.discard(link)
            link.reset()


class _Link:
    """One connection through a proxy."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._far: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        upstream = self._proxy.upstream
        if isinstance(upstream, Path):
            far_reader, self._far = await asyncio.open_unix_connection(upstream)
        else:
            far_reader, self._far = await asyncio.open_connection("127.0.0.1", upstream)
        ways = (self._pass(self._reader, self._far, "requests"), self._pass(far_reader, self._writer, "answers"))
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """Forward bytes when they are due; end after all bytes before the close have passed."""
        proxy, now = self._proxy, asyncio.get_running_loop().time
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1000)
        reading = asyncio.create_task(_read_into(line, reader, proxy))
        try:
            while True:
                due, data = await line.get()
                if due > now():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(asyncio.Event().wait(), due - now())
                await proxy._open[way].wait()
                if way == "answers" and data and proxy._answer_bytes is not None:
                    if len(data) >= proxy._answer_bytes:
                        writer.write(data[: proxy._answer_bytes])
                        return
                    proxy._answer_bytes -= len(data)
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        finally:
            reading.cancel()

    def reset(self) -> None:
        """End both sides at once, as a network that fails does."""
        for writer in (self._writer, self._far):
            if writer is None or writer.transport.is_closing():
                continue
            made: socket.socket | None = writer.get_extra_info("socket")
            if made is not None and made.family != socket.AF_UNIX and self._proxy._refuses:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


async def _read_into(line: asyncio.Queue[tuple[float, bytes]], reader: asyncio.StreamReader, proxy: Proxy) -> None:
    now, data = asyncio.get_running_loop().time, b"-"
    while data:
        try:
            data = await reader.read(CHUNK_BYTES)
        except OSError:
            data = b""
        await line.put((now() + proxy._delay_s, data))
